package main

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"clusterctl/hostconfig"
)

// TestSettingsHaveTheKubeletsShape: who reads the kubelet's configuration can read the
// agent's.
func TestSettingsHaveTheKubeletsShape(t *testing.T) {
	read := func(config hostconfig.NodeAgent) kubeletv1beta1.KubeletConfiguration {
		t.Helper()
		raw, err := json.Marshal(kubeletConfiguration(config, "cgroupfs"))
		if err != nil {
			t.Fatal(err)
		}
		var k kubeletv1beta1.KubeletConfiguration
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&k); err != nil {
			t.Fatalf("%v in %s", err, raw)
		}
		return k
	}
	k := read(hostconfig.NodeAgent{})
	if k.Kind != "KubeletConfiguration" || k.APIVersion != kubeletv1beta1.SchemeGroupVersion.String() || k.MaxPods != 110 || *k.PodPidsLimit != -1 ||
		k.EvictionHard["memory.available"] != "100Mi" || k.EvictionPressureTransitionPeriod.Duration != 5*time.Minute ||
		k.ImageMinimumGCAge.Duration != 2*time.Minute || *k.ImageGCHighThresholdPercent != 85 || k.ImageMaximumGCAge.Duration != 0 ||
		*k.Authentication.Anonymous.Enabled || k.Authorization.Mode != kubeletv1beta1.KubeletAuthorizationModeWebhook ||
		k.ContainerLogMaxSize != "10Mi" || len(k.ShutdownGracePeriodByPodPriority) != 2 || k.CgroupDriver != "cgroupfs" {
		t.Errorf("defaults: %+v", k)
	}
	k = read(hostconfig.NodeAgent{
		Cluster: hostconfig.Cluster{Domain: "example.local", DNSAddress: "192.0.2.10"}, MaxPods: 7, PodPIDs: 100, CRISocket: "unix:///run/crio/crio.sock",
		Reserved: map[string]string{"memory": "1Gi"}, Taints: []hostconfig.Taint{{Key: "k", Value: "v", Effect: "NoSchedule"}},
		Eviction: hostconfig.Eviction{Hard: map[string]string{}, Soft: map[string]string{"memory.available": "1Gi"},
			SoftGraceSeconds: map[string]int{"memory.available": 90}, TransitionSeconds: 15, MaxPodGraceSeconds: 60},
		Images:   hostconfig.Images{MaxUnusedSeconds: 3600},
		Shutdown: []hostconfig.ShutdownGrace{{Priority: 5, Seconds: 6}},
	})
	if k.ClusterDomain != "example.local" || k.ClusterDNS[0] != "192.0.2.10" || k.MaxPods != 7 || *k.PodPidsLimit != 100 || k.SystemReserved["memory"] != "1Gi" ||
		len(k.EvictionHard) != 0 || k.EvictionSoftGracePeriod["memory.available"] != "1m30s" || k.EvictionPressureTransitionPeriod.Duration != 15*time.Second ||
		k.EvictionMaxPodGracePeriod != 60 || k.ImageMaximumGCAge.Duration != time.Hour || k.RegisterWithTaints[0].Key != "k" ||
		k.ShutdownGracePeriodByPodPriority[0].ShutdownGracePeriodSeconds != 6 || k.ContainerRuntimeEndpoint != "unix:///run/crio/crio.sock" {
		t.Errorf("settings: %+v", k)
	}
}
