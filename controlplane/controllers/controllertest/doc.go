// Package controllertest lets controllers' tests run them over fake clients.
package controllertest
