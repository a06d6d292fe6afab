// A real kube-apiserver and the etcd it stores to, in one process, for `make test-cluster`.
//
//	apiserver --dir DIR --etcd-port PORT -- FLAGS OF kube-apiserver
//
// Both listen on 127.0.0.1 alone. It ends on SIGTERM, or when either ends; when its standard input ends, the tests are
// over, and DIR is removed, too.
package main

import (
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	dir := flag.String("dir", "", "directory of everything that is kept")
	port := flag.Int("etcd-port", 0, "port on 127.0.0.1 where etcd serves")
	flag.Parse()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = os.RemoveAll(*dir)
		os.Exit(0)
	}()
	etcd, err := store(filepath.Join(*dir, "etcd"), *port)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcd:", err)
		os.Exit(1)
	}
	server := app.NewAPIServerCommand()
	server.SetArgs(append([]string{fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", *port)}, flag.Args()...))
	code := cli.Run(server)
	etcd.Close()
	os.Exit(code)
}

// store starts etcd over dir and waits until it serves.
func store(dir string, port int) (*embed.Etcd, error) {
	clients := []url.URL{{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
	peers := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	config := embed.NewConfig()
	config.Dir = dir
	config.LogLevel = "error"
	// The tests kill the process, not the machine: what was written is there without waiting for the disk.
	config.UnsafeNoFsync = true
	config.ListenClientUrls, config.AdvertiseClientUrls = clients, clients
	config.ListenPeerUrls, config.AdvertisePeerUrls = peers, peers
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		return nil, err
	}
	select {
	case <-etcd.Server.ReadyNotify():
		return etcd, nil
	case <-time.After(time.Minute):
		etcd.Close()
		return nil, fmt.Errorf("not ready after a minute in %s", dir)
	}
}
