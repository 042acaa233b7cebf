package apiserver

import (
	apiversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/compatibility"

	"clusterctl/hostconfig"
)

// version tells clients hostconfig.KubernetesVersion, where the library would tell the
// version that its own build was stamped with.
type version struct{ compatibility.EffectiveVersion }

func newVersion() version {
	return version{compatibility.NewEffectiveVersionFromString("1.36", "", "")}
}

func (v version) Info() *apiversion.Info {
	info := v.EffectiveVersion.Info()
	info.GitVersion = hostconfig.KubernetesVersion
	info.GitCommit, info.GitTreeState, info.BuildDate = "", "", ""
	return info
}
