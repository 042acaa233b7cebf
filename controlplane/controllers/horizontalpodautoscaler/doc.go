// Package horizontalpodautoscaler sizes what HorizontalPodAutoscalers point at.
//
//   - controller.go reconciles one autoscaler, every 15 seconds.
//   - metrics.go asks metrics.k8s.io, custom.metrics.k8s.io and
//     external.metrics.k8s.io for samples.
//   - proposal.go turns one metric of an autoscaler into a proposed size.
//   - replicas.go is the arithmetic of pods and samples behind it; it is pure.
//   - history.go decides, from the past and the autoscaler's behaviour, how much
//     of a proposal to follow now; it is pure, too.
//
// It makes no metrics, and reads no kind of target but through its scale.
package horizontalpodautoscaler
