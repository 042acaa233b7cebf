// Package keys is the dashboard's one key map: screens match key presses
// against it, and the help is made from it.
package keys
