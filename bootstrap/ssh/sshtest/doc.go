// Package sshtest is an SSH server in process, for tests: it runs commands
// with sh as the user of the test and forwards connections.
package sshtest
