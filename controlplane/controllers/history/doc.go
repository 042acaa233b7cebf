// Package history keeps the former pod templates of an object as
// ControllerRevisions, which is how daemon sets and stateful sets know what
// they were and roll back. It finds or writes the revision of the present
// template and drops those beyond the limit; what a revision means for pods is
// the controllers' business.
package history
