// Package ttlafterfinished deletes jobs, with their pods, once they have been
// finished for as long as they asked for.
package ttlafterfinished
