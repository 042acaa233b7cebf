// Package resourceclaim makes the claims of devices that pods ask for by
// template, reserves allocated claims for pods that somebody else than the
// scheduler bound, and frees claims whose pods are done: it drops their
// reservations, gives back their devices and deletes the claims it made. It
// allocates nothing (the scheduler does), and prepares nothing on nodes.
package resourceclaim
