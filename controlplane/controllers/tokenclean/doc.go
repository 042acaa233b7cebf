// Package tokenclean deletes bootstrap tokens that have expired. The API
// server refuses them from the moment they expire; this only tidies up, and so
// asks once a minute instead of watching Secrets.
package tokenclean
