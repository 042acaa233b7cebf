// Package tainteviction deletes pods from nodes whose NoExecute taints they do
// not tolerate, or tolerate no longer. Who taints a node, and how fast, is
// others' business (nodelifecycle's, or an operator's).
package tainteviction
