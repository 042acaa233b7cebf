// Package podgc deletes pods that no node agent will ever delete: those bound
// to nodes that are gone, those deleted before they were bound, those left on
// nodes declared out of service, and the oldest finished ones when there are
// too many.
package podgc
