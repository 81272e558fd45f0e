// Package accept holds the acceptance rules that both vendors' records share: key and display
// text, measures, instants. The rules' own names are used for warnings and reasons.
//
// A function takes one scalar as read and returns the value, the names of accepted deviations, and
// the reason for which the value is refused; the reason is empty when it is accepted. Warnings may
// come with a reason. The returned slices are shared: do not change them.
package accept
