// Package linearizability holds API servers to their word: three of them, over
// three etcd members, each a process that is killed, stopped and restarted while
// clients write, read and watch. What the clients saw is checked afterwards:
//
//   - every answer fits one order of all writes and reads (porcupine);
//   - every acknowledged write is in etcd, with the version that was told, and
//     no refused one is;
//   - every watcher saw every write once, in order, over all its reconnects;
//   - every list is the state at the version that it names.
//
// The test program is the servers too: see role in processes_test.go. How long
// it runs is said by CLUSTERCTL_LINEARIZABILITY (a duration; 15s).
package linearizability
