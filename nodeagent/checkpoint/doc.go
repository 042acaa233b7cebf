// Package checkpoint keeps what the agent has to know after a restart in files, as
// JSON. A file is whole at any time, whatever happens to the agent or the host. What
// stands in them is the business of who stores it.
package checkpoint
