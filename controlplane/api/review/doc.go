// Package review serves kinds that are questions rather than objects: a client
// creates one, the answer stands in its status, nothing is stored. The
// questions themselves are in the packages of their groups.
package review
