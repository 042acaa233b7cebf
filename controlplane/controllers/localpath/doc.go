// Package localpath makes volumes that are directories on a node's own disk,
// and has them removed. It decides nothing about claims: that is
// persistentvolume's, which calls it.
//
// The directory itself is made by the node agent when the first pod mounts the
// volume, so that nothing but the API is needed to provision. To remove it, the
// agent is asked through the API server's node proxy, as logs and exec are: the
// nodes themselves need no right to write volumes.
package localpath
