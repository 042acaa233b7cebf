// Package theme is how the dashboard looks: every colour and style, named by
// what it is for.
package theme
