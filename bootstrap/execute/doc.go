// Package execute is everything of clusterctl that talks to hosts: it asks for
// facts (Observe), reads or makes the certificate authorities (Authorities),
// tries ports (Reach), takes the run lock (Lock), has a plan checked (Check)
// and carries it out (Run).
//
// A host is reached through a Hand, which bootstrap/ssh provides. What to do is
// in the plan; nothing here decides it. Secrets are filled into operations just
// before they travel and are kept nowhere.
//
// What happens is told as Events. Package report turns them into lines for
// people and for programs; the live view on a terminal is ui/progress.
package execute
