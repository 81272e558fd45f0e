package billing

import (
	"slices"
	"strings"
)

// currencies are the active codes of ISO 4217 that money is counted in, by the decimals of their
// smallest unit. BGN left the standard in 2026 and prices from before that stand in it. The codes of
// metals, units of account and tests have no smallest unit and are not here.
var currencies = map[int][]string{
	0: strings.Fields(`BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF`),
	2: strings.Fields(`AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
		CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG
		HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN
		MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD
		SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG`),
	3: strings.Fields(`BHD IQD JOD KWD LYD OMR TND`),
	4: strings.Fields(`CLF UYW`),
}

// Currencies lists the codes of ISO 4217 in which prices are expected.
func Currencies() (codes []string) {
	for _, group := range currencies {
		codes = append(codes, group...)
	}
	slices.Sort(codes)
	return codes
}

// MinorUnits is the number of decimals of a currency's smallest unit, 2 for a code that is not known,
// as the function billing.currency_minor_units of the database has it.
func MinorUnits(currency string) int {
	for decimals, group := range currencies {
		if slices.Contains(group, currency) {
			return decimals
		}
	}
	return 2
}
