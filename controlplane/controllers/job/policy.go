package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// verdict is what the pod failure policy makes of a failed pod: Count unless a
// rule says otherwise. message explains FailJob.
func verdict(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) (action batchv1.PodFailurePolicyAction, message string) {
	if policy == nil || pod.Status.Phase != corev1.PodFailed {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		why, matches := "", false
		switch {
		case rule.OnExitCodes != nil:
			why, matches = exitCode(rule.OnExitCodes, pod)
		case len(rule.OnPodConditions) > 0:
			why, matches = condition(rule.OnPodConditions, pod)
		}
		if matches {
			return rule.Action, fmt.Sprintf("%s matching %s rule at index %d", why, rule.Action, i)
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

func exitCode(rule *batchv1.PodFailurePolicyOnExitCodesRequirement, pod *corev1.Pod) (string, bool) {
	for _, s := range slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses) {
		ended := s.State.Terminated
		if ended == nil || ended.ExitCode == 0 || rule.ContainerName != nil && *rule.ContainerName != s.Name {
			continue
		}
		if slices.Contains(rule.Values, ended.ExitCode) == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return fmt.Sprintf("Container %s for pod %s failed with exit code %d", s.Name, reconcile.Key(pod), ended.ExitCode), true
		}
	}
	return "", false
}

func condition(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, pod *corev1.Pod) (string, bool) {
	for _, c := range pod.Status.Conditions {
		for _, p := range patterns {
			if c.Type == p.Type && c.Status == p.Status {
				return fmt.Sprintf("Pod %s has condition %s", reconcile.Key(pod), c.Type), true
			}
		}
	}
	return "", false
}

// succeeds returns which rule of a success policy holds.
func succeeds(policy *batchv1.SuccessPolicy, completions int, done indexes) (message string, ok bool) {
	if policy == nil || len(done) == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		counted, wanted := len(done), completions
		if rule.SucceededIndexes != nil {
			of := parseIndexes(*rule.SucceededIndexes, completions)
			if len(of) == 0 {
				continue // the job has none of them any more
			}
			counted, wanted = 0, len(of)
			for index := range of {
				if done[index] {
					counted++
				}
			}
		}
		if rule.SucceededCount != nil {
			wanted = int(*rule.SucceededCount)
		}
		if counted >= wanted {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
