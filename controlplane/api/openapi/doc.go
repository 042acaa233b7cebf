// Package openapi holds what OpenAPI says of the built-in kinds, made ahead of
// time by package generate: the documents that are served, compressed, and the
// types that server-side apply goes by. Building either at start would cost more
// memory and time than everything else there. Documents of custom resources and
// of extension API servers are made in controlplane/apiserver.
package openapi
