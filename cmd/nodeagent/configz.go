package main

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/node"
	"clusterctl/nodeagent/pods"
	"clusterctl/nodeagent/server"
)

// kubeletConfig is what the agent's settings are in the kubelet's configuration
// (kubelet.config.k8s.io/v1beta1): those that it has too. The type of that API would
// bring libraries along that take memory and are of no other use here.
type kubeletConfig struct {
	metav1.TypeMeta `json:",inline"`

	EnableServer       bool   `json:"enableServer"`
	Address            string `json:"address"`
	Port               int    `json:"port"`
	StaticPodPath      string `json:"staticPodPath"`
	PodLogsDir         string `json:"podLogsDir"`
	RotateCertificates bool   `json:"rotateCertificates"`
	ServerTLSBootstrap bool   `json:"serverTLSBootstrap"`

	Authentication kubeletAuthentication `json:"authentication"`
	Authorization  kubeletAuthorization  `json:"authorization"`

	EventRecordQPS int      `json:"eventRecordQPS"`
	EventBurst     int      `json:"eventBurst"`
	ClusterDomain  string   `json:"clusterDomain"`
	ClusterDNS     []string `json:"clusterDNS,omitempty"`

	NodeStatusUpdateFrequency metav1.Duration `json:"nodeStatusUpdateFrequency"`
	NodeStatusReportFrequency metav1.Duration `json:"nodeStatusReportFrequency"`
	NodeLeaseDurationSeconds  int             `json:"nodeLeaseDurationSeconds"`
	NodeStatusMaxImages       int             `json:"nodeStatusMaxImages"`

	ImageMinimumGCAge           metav1.Duration `json:"imageMinimumGCAge"`
	ImageMaximumGCAge           metav1.Duration `json:"imageMaximumGCAge"`
	ImageGCHighThresholdPercent int             `json:"imageGCHighThresholdPercent"`
	ImageGCLowThresholdPercent  int             `json:"imageGCLowThresholdPercent"`
	SerializeImagePulls         bool            `json:"serializeImagePulls"`
	MaxParallelImagePulls       int             `json:"maxParallelImagePulls"`

	CgroupsPerQOS          bool              `json:"cgroupsPerQOS"`
	CgroupDriver           string            `json:"cgroupDriver"`
	MaxPods                int               `json:"maxPods"`
	PodPidsLimit           int64             `json:"podPidsLimit"`
	SystemReserved         map[string]string `json:"systemReserved,omitempty"`
	EnforceNodeAllocatable []string          `json:"enforceNodeAllocatable"`

	EvictionHard                     map[string]string `json:"evictionHard"`
	EvictionSoft                     map[string]string `json:"evictionSoft,omitempty"`
	EvictionSoftGracePeriod          map[string]string `json:"evictionSoftGracePeriod,omitempty"`
	EvictionMinimumReclaim           map[string]string `json:"evictionMinimumReclaim,omitempty"`
	EvictionMaxPodGracePeriod        int               `json:"evictionMaxPodGracePeriod"`
	EvictionPressureTransitionPeriod metav1.Duration   `json:"evictionPressureTransitionPeriod"`

	ContainerLogMaxSize         string          `json:"containerLogMaxSize"`
	ContainerLogMaxFiles        int             `json:"containerLogMaxFiles"`
	ContainerLogMonitorInterval metav1.Duration `json:"containerLogMonitorInterval"`

	ShutdownGracePeriodByPodPriority []kubeletShutdown  `json:"shutdownGracePeriodByPodPriority"`
	RegisterNode                     bool               `json:"registerNode"`
	RegisterWithTaints               []hostconfig.Taint `json:"registerWithTaints,omitempty"`
	ContainerRuntimeEndpoint         string             `json:"containerRuntimeEndpoint"`
}

type kubeletAuthentication struct {
	X509 struct {
		ClientCAFile string `json:"clientCAFile"`
	} `json:"x509"`
	Webhook struct {
		Enabled  bool            `json:"enabled"`
		CacheTTL metav1.Duration `json:"cacheTTL"`
	} `json:"webhook"`
	Anonymous struct {
		Enabled bool `json:"enabled"`
	} `json:"anonymous"`
}

type kubeletAuthorization struct {
	Mode    string `json:"mode"`
	Webhook struct {
		CacheAuthorizedTTL   metav1.Duration `json:"cacheAuthorizedTTL"`
		CacheUnauthorizedTTL metav1.Duration `json:"cacheUnauthorizedTTL"`
	} `json:"webhook"`
}

type kubeletShutdown struct {
	Priority int32 `json:"priority"`
	Seconds  int   `json:"shutdownGracePeriodSeconds"`
}

// kubeletConfiguration is the agent's configuration as programs know the kubelet's.
func kubeletConfiguration(config hostconfig.NodeAgent, cgroupDriver string) kubeletConfig {
	seconds := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }
	lasting := func(d time.Duration) metav1.Duration { return metav1.Duration{Duration: d} }
	images, evictions := config.Images.OrDefaults(), config.Eviction
	k := kubeletConfig{
		TypeMeta:     metav1.TypeMeta{Kind: "KubeletConfiguration", APIVersion: "kubelet.config.k8s.io/v1beta1"},
		EnableServer: true, Address: "0.0.0.0", Port: hostconfig.PortNodeAgent,
		StaticPodPath: config.ManifestDir, PodLogsDir: hostconfig.PodLogs, RotateCertificates: true, ServerTLSBootstrap: true,
		EventRecordQPS: eventsPerSecond, EventBurst: eventsBurst, ClusterDomain: config.Cluster.Domain,

		NodeStatusUpdateFrequency: lasting(node.StatusPeriod), NodeStatusReportFrequency: lasting(node.StatusReport),
		NodeLeaseDurationSeconds: node.LeaseSeconds, NodeStatusMaxImages: node.MaxImages,

		ImageMinimumGCAge: seconds(images.MinAgeSeconds), ImageMaximumGCAge: seconds(images.MaxUnusedSeconds),
		ImageGCHighThresholdPercent: images.CollectAbovePercent, ImageGCLowThresholdPercent: images.CollectBelowPercent,
		MaxParallelImagePulls: pods.ParallelPulls,

		CgroupsPerQOS: true, CgroupDriver: cgroupDriver, MaxPods: cmp.Or(config.MaxPods, node.DefaultPods),
		PodPidsLimit: cmp.Or(config.PodPIDs, -1), SystemReserved: config.Reserved, EnforceNodeAllocatable: []string{"pods"},

		EvictionHard: evictions.Hard, EvictionSoft: evictions.Soft, EvictionMinimumReclaim: evictions.MinimumReclaim,
		EvictionMaxPodGracePeriod:        evictions.MaxPodGraceSeconds,
		EvictionPressureTransitionPeriod: seconds(cmp.Or(evictions.TransitionSeconds, eviction.DefaultTransitionSeconds)),

		ContainerLogMaxSize:  resource.NewQuantity(pods.LogMaxBytes, resource.BinarySI).String(),
		ContainerLogMaxFiles: pods.LogMaxFiles, ContainerLogMonitorInterval: lasting(pods.LogCheck),

		RegisterNode: true, RegisterWithTaints: config.Taints, ContainerRuntimeEndpoint: config.CRISocket,
	}
	k.Authentication.X509.ClientCAFile = hostconfig.PKI(config.PKIDir).ClusterCA()
	k.Authentication.Webhook.Enabled, k.Authentication.Webhook.CacheTTL = true, lasting(server.TokenTTL)
	k.Authorization.Mode = "Webhook"
	k.Authorization.Webhook.CacheAuthorizedTTL, k.Authorization.Webhook.CacheUnauthorizedTTL = lasting(server.AllowedTTL), lasting(server.DeniedTTL)
	if address := config.Cluster.DNSAddress; address != "" {
		k.ClusterDNS = []string{address}
	}
	if k.EvictionHard == nil {
		k.EvictionHard = eviction.Defaults
	}
	for signal, n := range evictions.SoftGraceSeconds {
		if k.EvictionSoftGracePeriod == nil {
			k.EvictionSoftGracePeriod = map[string]string{}
		}
		k.EvictionSoftGracePeriod[signal] = seconds(n).Duration.String()
	}
	for _, group := range shutdownGroups(config) {
		k.ShutdownGracePeriodByPodPriority = append(k.ShutdownGracePeriodByPodPriority, kubeletShutdown{group.Priority, int(group.Grace / time.Second)})
	}
	return k
}
