// Package cronjob makes a Job at each scheduled time of each CronJob, as its
// concurrency policy and starting deadline allow, and deletes the oldest ended
// ones beyond its limits. The times are computed in schedule.go. A job's name
// follows from its time, so that none is made twice.
package cronjob
