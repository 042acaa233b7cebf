// Package storageprotection lets deleted claims, volumes and volume attributes
// classes go once nothing uses them: it removes the finalizers that admission
// gives to new ones, and gives them to those that lack them. It deletes nothing, and binds and provisions nothing.
package storageprotection
