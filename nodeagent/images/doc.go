// Package images makes sure that the image of a container is on the host:
// pull policies, credentials and who may use what came by them, back-off, and the
// removal of images that nobody needs. It knows nothing of pods' life.
package images
