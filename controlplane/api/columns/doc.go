// Package columns makes the columns and cells that tables of many kinds have
// in common. Columns of one kind only stand in the file of that kind.
package columns
