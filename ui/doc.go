// Package ui is the dashboard, `clusterctl ui`.
//
// The root (app.go) owns the terminal: it routes between screens, asks for
// commands and answers, and shows errors. A screen (ui/screens) shows one thing
// and watches it only while it is shown. Components (ui/components) are dumb:
// they are given rows or text and draw them. Everything that touches a network
// is a source (ui/sources); screens get at it through commands that return a
// typed message with its error, so that Update never blocks. How things look is
// ui/theme's alone, and which key does what is ui/keys', for matching and for
// help alike.
package ui
