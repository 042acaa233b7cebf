// Package pki makes a cluster's certificate authorities and issues
// certificates from them, in memory only. What a host needs of it travels
// inside hostop operations that bootstrap/execute fills in; nothing here reads
// or writes a file, and nothing here decides who needs which certificate
// (bootstrap/plan does).
package pki
