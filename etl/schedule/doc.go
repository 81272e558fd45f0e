// Package schedule knows when something is due and has it done once: cron schedules that keep their
// promise across changes of the clock, and a queue (River, in the same Postgres) that any number of
// processes share.
//
// What is due follows from what is loaded, never from remembered ticks: whoever plans compares the
// last success of a dataset and scope with its schedule, and adds a job for the newest slot that has
// come since. The job is unique by dataset, scope and slot, so all processes may plan at once, a missed
// tick is made good by the next, and three days of standing still end in one job per scope.
//
// The queue decides who works and when it is tried again. It is not what keeps figures right: that is
// the lease and its fence in the warehouse.
package schedule
