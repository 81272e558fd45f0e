package metabase_test

import "context"

// noContext is for callers that are no test of the testing package.
func noContext() context.Context { return context.Background() }
