// Package components are the dashboard's dumb parts: they are given rows, text
// or a question, and draw it. They know nothing of clusters.
package components
