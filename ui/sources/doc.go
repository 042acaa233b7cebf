// Package sources is everything of the dashboard that touches a network: tables
// of objects that are watched, objects as text, logs, changes, and the hosts.
// Calls block and take a context: screens run them in commands.
package sources
