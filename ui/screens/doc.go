// Package screens are what the dashboard can show, one at a time. A screen
// watches only between Show and Hide.
package screens
