package wolkvoxsim

// form is how a product writes its items, and the unit its amounts are kept in.
type form int

const (
	whole   form = iota // 1856           kept in ones
	decimal             // 92.35 minutes  kept in ticks of three seconds
	clock               // 31:05:12       kept in ticks of three seconds
)

// product is one billing API.
type product struct {
	number  int // as in the vendor's catalogue
	api     string
	counter bool // month to date; otherwise a gauge
	form    form
	typical int64    // gauge: usual level; counter: amount of a working day
	rows    []string // descriptions, one row each
}

// catalogue is the vendor's list of 2026. Wording and language of descriptions
// are not fixed by the vendor; these are made up, and mixed on purpose.
var catalogue = []product{
	{1, "agent_script", false, whole, 12, []string{"Agent Script"}},
	{2, "intelligent_dial", false, whole, 8, []string{"Marcación inteligente"}},
	{3, "gamification", false, whole, 5, []string{"Gamification"}},
	{4, "ivr_minutes", true, decimal, 9000, []string{"Minutos IVR"}},
	{5, "rec_minutes", true, whole, 620, []string{"Grabaciones IVR"}},
	{6, "amazon_s3", false, whole, 4, []string{"Amazon S3"}},
	{7, "rsync", false, whole, 3, []string{"RSYNC"}},
	{8, "rsync_s3_mp3", true, whole, 1400, []string{"RSYNC S3 MP3"}},
	{9, "rec_screen", true, clock, 7500, []string{"Grabación de pantalla (agentes, 20%)", "Grabación de pantalla (supervisores, 100%)"}},
	{10, "interactions", true, whole, 730, []string{"Interacciones omnibox"}},
	{11, "rec_screen_on_demand", true, clock, 900, []string{"Screen recording on demand"}},
	{12, "speech_analytics", true, decimal, 2400, []string{"Speech Analytics"}},
	{13, "wp_connectors", false, whole, 2, []string{"Conectores WhatsApp"}},
	{14, "sentiment_analysis", true, whole, 210, []string{"Análisis de sentimiento"}},
	{15, "chat_licenses", false, whole, 25, []string{"Chat licenses"}},
	{16, "interaction_licenses", false, whole, 18, []string{"Interaction licenses"}},
	{17, "video_call", false, whole, 0, []string{"Video llamadas"}},
	{18, "pbx_licenses", false, whole, 40, []string{"Licencias PBX"}},
	{19, "ivr_calls", true, whole, 950, []string{"Llamadas IVR"}},
	{20, "asr_calls", true, whole, 380, []string{"ASR"}},
	{21, "vision", true, whole, 60, []string{"Vision"}},
	{22, "tts_chars", true, whole, 145000, []string{"Caracteres TTS"}},
	{23, "wp_connectors_official", false, whole, 3, []string{"Conectores WhatsApp Business"}},
	{24, "contact_center_licenses", false, whole, 60, []string{"Licencias Contact Center"}},
	{25, "amd_ai", true, whole, 1700, []string{"AMD AI"}},
	{26, "stereo_rec", true, decimal, 5200, []string{"Grabación estéreo"}},
	{27, "nlp_ai", true, whole, 3300, []string{"NLP"}},
}

// find returns the product behind an API name.
func find(api string) (product, bool) {
	for _, p := range catalogue {
		if p.api == api {
			return p, true
		}
	}
	return product{}, false
}

// code is the envelope's success code: text from the two youngest APIs.
func (p product) code() any {
	if p.number >= 26 {
		return "200"
	}
	return 200
}

func (p product) msg() string {
	if p.number == 10 {
		return "1 records were found"
	}
	return "Information found for the current month"
}
