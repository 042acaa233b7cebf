// Package framework holds the extension points between the scheduler's flow
// and its plugins. They are Kubernetes' (queue sort, pre-filter, filter,
// post-filter, pre-score, score, reserve, permit, pre-bind, bind, post-bind),
// with one difference in form: what a plugin works out about a pod before it
// looks at nodes is kept in the function that it returns, not in a shared
// store of cycle state. A plugin that returns no function is not asked again
// for this pod, so that it costs nothing where it does not apply.
package framework
