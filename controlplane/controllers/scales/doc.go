// Package scales reads and writes the scale of whatever has one, custom
// resources included. It asks discovery only when it is first used. How large
// anything should be is the business of its callers.
package scales
