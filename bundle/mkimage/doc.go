// Command mkimage makes an image archive of one static binary or of a whole
// root file tree:
//
//	go run ./bundle/mkimage -name clusterctl.dev/sample:1 -binary bin/sample -out bin/sample.tar
//	go run ./bundle/mkimage -name example.org/web:1 -tree root -entrypoint /usr/sbin/nginx -cmd '-g' -cmd 'daemon off;' -out web.tar
//
// `clusterctl image load` brings the archive to every node.
package main
