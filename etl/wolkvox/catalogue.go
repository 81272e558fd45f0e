package wolkvox

import "meterhouse/etl"

// entry is a product with the rule for its items: whole things, or minutes and unknown units,
// which may also have decimals or be written as a duration.
type entry struct {
	etl.Product
	whole bool
}

// catalogue is the vendor's collection of 2026. The kinds are read out of the descriptions there;
// nothing states them.
var catalogue = []entry{
	{etl.Product{Number: 1, Code: "agent_script", Title: "Agent Script", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 2, Code: "intelligent_dial", Title: "Intelligent dial", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 3, Code: "gamification", Title: "Gamification", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 4, Code: "ivr_minutes", Title: "IVR minutes", Unit: "minutes", Kind: etl.Counter}, false},
	{etl.Product{Number: 5, Code: "rec_minutes", Title: "IVR recordings", Unit: "minutes", Kind: etl.Counter}, false},
	{etl.Product{Number: 6, Code: "amazon_s3", Title: "Amazon S3", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 7, Code: "rsync", Title: "RSYNC", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 8, Code: "rsync_s3_mp3", Title: "RSYNC S3 MP3", Unit: "files", Kind: etl.Counter}, true},
	{etl.Product{Number: 9, Code: "rec_screen", Title: "Screen recording", Unit: "time", Kind: etl.Counter}, false},
	{etl.Product{Number: 10, Code: "interactions", Title: "Interactions", Unit: "interactions", Kind: etl.Counter}, true},
	{etl.Product{Number: 11, Code: "rec_screen_on_demand", Title: "Screen recording on demand", Unit: "time", Kind: etl.Counter}, false},
	{etl.Product{Number: 12, Code: "speech_analytics", Title: "Speech Analytics", Unit: "time", Kind: etl.Counter}, false},
	{etl.Product{Number: 13, Code: "wp_connectors", Title: "WhatsApp connectors", Unit: "connectors", Kind: etl.Gauge}, true},
	{etl.Product{Number: 14, Code: "sentiment_analysis", Title: "Sentiment analysis", Unit: "analyses", Kind: etl.Counter}, true},
	{etl.Product{Number: 15, Code: "chat_licenses", Title: "Chat licences", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 16, Code: "interaction_licenses", Title: "Interaction licences", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 17, Code: "video_call", Title: "Video calls", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 18, Code: "pbx_licenses", Title: "PBX licences", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 19, Code: "ivr_calls", Title: "IVR calls", Unit: "calls", Kind: etl.Counter}, true},
	{etl.Product{Number: 20, Code: "asr_calls", Title: "ASR plays", Unit: "uses", Kind: etl.Counter}, true},
	{etl.Product{Number: 21, Code: "vision", Title: "Vision component", Unit: "uses", Kind: etl.Counter}, true},
	{etl.Product{Number: 22, Code: "tts_chars", Title: "TTS characters", Unit: "characters", Kind: etl.Counter}, true},
	{etl.Product{Number: 23, Code: "wp_connectors_official", Title: "Official WhatsApp Business connectors", Unit: "connectors", Kind: etl.Gauge}, true},
	{etl.Product{Number: 24, Code: "contact_center_licenses", Title: "Contact-centre licences", Unit: "licences", Kind: etl.Gauge}, true},
	{etl.Product{Number: 25, Code: "amd_ai", Title: "AMD AI", Unit: "recognitions", Kind: etl.Counter}, true},
	{etl.Product{Number: 26, Code: "stereo_rec", Title: "Stereo recording", Unit: "minutes", Kind: etl.Counter}, false},
	{etl.Product{Number: 27, Code: "nlp_ai", Title: "NLP", Unit: "unknown", Kind: etl.Counter}, false},
}

// Catalogue returns the known products in the vendor's order.
func Catalogue() []etl.Product {
	products := make([]etl.Product, len(catalogue))
	for i, e := range catalogue {
		products[i] = e.Product
	}
	return products
}

// entryOf is the product behind a code. The vendor may have more than we know: a stranger is read
// like a counter of unknown unit, the most tolerant rule.
func entryOf(code string) entry {
	for _, e := range catalogue {
		if e.Code == code {
			return e
		}
	}
	return entry{Product: etl.Product{Code: code, Title: code, Unit: "unknown", Kind: etl.Counter}}
}
