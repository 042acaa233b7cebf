// Package images makes sure that the image of a container is on the host:
// pull policies, credentials, back-off. It knows nothing of pods' life.
package images
