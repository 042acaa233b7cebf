// Package downward tells a pod about itself: the values of fieldRef and
// resourceFieldRef, for environment variables and volumes alike.
package downward
