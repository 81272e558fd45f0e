package keystonesim_test

import (
	"strings"
	"testing"
	"time"

	"meterhouse/etl/keystone/keystonesim"
)

const day = 24 * time.Hour

func TestRefreshTokenIsSpentByUse(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true, RefreshToken: "from-the-portal"})
	first := b.access
	if status, _, _ := b.exchange("from-the-portal"); status != 401 {
		t.Errorf("spent token: %d, want 401", status)
	}
	second := b.sim.RefreshToken()
	status, access, third := b.exchange(second)
	if status != 200 || third == second || third != b.sim.RefreshToken() {
		t.Fatalf("rotation: %d", status)
	}
	for _, token := range []string{first, access} { // a rotation leaves older access tokens alone
		b.access = token
		b.tree(customers)
	}
	if status, _, _ := b.exchange("never seen"); status != 401 {
		t.Errorf("unknown token: %d, want 401", status)
	}
	if status, _, _ := b.exchange(""); status != 400 {
		t.Errorf("no token: %d, want 400", status)
	}
	var classes []keystonesim.Credential
	for _, r := range b.sim.Requests() {
		classes = append(classes, r.Credential)
	}
	want := []keystonesim.Credential{"refresh", "spent", "refresh", "access", "access", "unknown", "none"}
	for i := range want {
		if i >= len(classes) || classes[i] != want[i] {
			t.Fatalf("credentials %v, want %v", classes, want)
		}
	}
}

func TestTokensExpire(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	b.tokens.Add(time.Hour - time.Second)
	b.tree(customers)
	b.tokens.Add(time.Second)
	if status, _ := b.get(customers); status != 401 {
		t.Errorf("access token after an hour: %d, want 401", status)
	}
	if log := b.sim.Requests(); log[len(log)-1].Credential != keystonesim.Expired {
		t.Errorf("logged as %s", log[len(log)-1].Credential)
	}
	b.tokens.Add(7*day - time.Hour - time.Second)
	if status, _, _ := b.exchange(b.sim.RefreshToken()); status != 200 {
		t.Errorf("a second before seven days: %d, want 200", status)
	}
	b.tokens.Add(7 * day)
	if status, _, _ := b.exchange(b.sim.RefreshToken()); status != 401 {
		t.Errorf("after seven days: %d, want 401", status)
	}
	status, access, _ := b.exchange(b.sim.Login())
	if status != 200 {
		t.Fatalf("after a new login: %d, want 200", status)
	}
	b.access = access
	b.tree(customers)
}

// An exchange that is not sent as JSON is refused like any gateway would, and spends nothing.
func TestExchangeWantsJSON(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	held := b.sim.RefreshToken()
	for _, media := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		res, err := b.client.Post(b.url+"/v1/tokens/accessToken", media, strings.NewReader(`{"refresh_token":"`+held+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 415 {
			t.Errorf("%q: %d, want 415", media, res.StatusCode)
		}
	}
	if status, _, _ := b.exchange(held); status != 200 {
		t.Errorf("as JSON: %d, want 200", status)
	}
}

func TestLoginLastsNinetyDays(t *testing.T) {
	t.Parallel()
	b := newBench(t, keystonesim.Config{DailyOnly: true})
	for range 15 {
		b.tokens.Add(6 * day)
		b.exchange(b.sim.RefreshToken())
	}
	held := b.sim.RefreshToken()
	if status, _, _ := b.exchange(held); status != 401 {
		t.Errorf("on day 90: %d, want 401", status)
	}
	if status, _, _ := b.exchange(b.sim.Login()); status != 200 {
		t.Errorf("after a new login: %d, want 200", status)
	}
	if status, _, _ := b.exchange(held); status != 401 {
		t.Errorf("the former login's token: %d, want 401", status)
	}
}

func TestLenientAcceptsSpentTokensAndThoseOfAnEarlierProcess(t *testing.T) {
	t.Parallel()
	earlier := newBench(t, keystonesim.Config{Seed: 5, DailyOnly: true, Lenient: true})
	spent := earlier.sim.RefreshToken()
	for range 3 {
		if status, _, _ := earlier.exchange(spent); status != 200 {
			t.Fatalf("spent token, lenient: %d", status)
		}
	}
	held := earlier.sim.RefreshToken()
	later := newBench(t, keystonesim.Config{Seed: 5, DailyOnly: true, Lenient: true})
	status, _, next := later.exchange(held)
	if status != 200 || next == held || next == spent {
		t.Errorf("token of an earlier process: %d", status)
	}
	strict := newBench(t, keystonesim.Config{Seed: 5, DailyOnly: true})
	if status, _, _ := strict.exchange(held); status != 401 {
		t.Errorf("strict: %d, want 401", status)
	}
	resumed := newBench(t, keystonesim.Config{Seed: 5, DailyOnly: true, RefreshToken: held})
	if resumed.sim.RefreshToken() == held {
		t.Error("a resumed chain handed out the token it was resumed with")
	}
}
