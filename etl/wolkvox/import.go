package wolkvox

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"meterhouse/etl"
	"meterhouse/etl/internal/fetch"
)

// ImportedRow is one reading that a person has from elsewhere, such as an export of the portal. Its
// texts are judged by the same rules as the vendor's.
type ImportedRow struct {
	Operation   string
	Description string
	Items       string
	Date        string // YYYY-MM-DD in the account's zone
}

// Imported makes an answer of readings of one product that were not fetched, as the vendor would have
// given it at readAt. from says where they are from, such as the name of a file. The caller closes its
// body.
func Imported(account, product, from string, readAt time.Time, rows []ImportedRow) (*etl.Answer, error) {
	type entry struct {
		Operation   string `json:"operation"`
		Description string `json:"description"`
		Items       string `json:"items"`
		Date        string `json:"date"`
	}
	envelope := struct {
		Code  string  `json:"code"`
		Error *string `json:"error"`
		Msg   string  `json:"msg"`
		Data  []entry `json:"data"`
	}{Code: "200", Msg: "imported from " + from, Data: make([]entry, len(rows))}
	for i, row := range rows {
		envelope.Data[i] = entry(row)
	}
	body, err := json.Marshal(envelope)
	if err != nil {
		return nil, fmt.Errorf("import of %s: %w", product, err)
	}
	return &etl.Answer{
		Request: etl.Request{Dataset: Dataset, Scope: account, Product: product},
		Method:  etl.MethodImport, URL: from, Status: http.StatusOK, ContentType: "application/json",
		RequestedAt: readAt, FetchedAt: readAt,
		Body: fetch.NewBody(body), Warnings: etl.Warnings{},
	}, nil
}

// Zone is the zone of the account's days and months.
func (a *Account) Zone() *time.Location { return a.cfg.Zone }

// Operation is the one that readings must name: the configured one, else the pinned one as far as it
// was learned, see LearnOperation; empty when neither is known.
func (a *Account) Operation() string {
	if pinned := a.pinned.Load(); a.operation == "" && pinned != nil {
		return *pinned
	}
	return a.operation
}
