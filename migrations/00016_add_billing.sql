-- What finance owns: prices, the billing calendar and what was decided about days and products. Days
-- of this schema are inclusive at both ends, as contracts and invoices print them. Rows are never
-- changed but for superseded_at, so that a statement can be told as it was at any time. New tables:
-- locks nothing; nothing to replay.

-- +goose Up
create schema billing;
comment on schema billing is 'What finance owns: prices, billing calendar, closed months and invoices. Days are inclusive at both ends.';

-- +goose StatementBegin
create function billing.key_range(variadic parts text[]) returns int8range
language sql immutable parallel safe
set search_path = pg_catalog
as $$
    select int8range(h, h, '[]') from (select hashtextextended(array_to_string(parts, chr(31)), 0) as h) as hashed
$$;
-- +goose StatementEnd
comment on function billing.key_range(text[]) is 'A text key as a range of one 64-bit number, so that an exclusion constraint can compare it without an extension.';

create table billing.rate (
    rate_id bigint generated always as identity constraint rate_pkey primary key,
    vendor text not null,
    account text collate "C" not null default '',
    customer_id text collate "C" not null default '',
    subscription_number text collate "C" not null default '',
    item text collate "C" not null default '',
    charge text not null,
    is_waiver boolean not null default false,
    unit_price numeric not null,
    currency text collate "C" not null,
    valid_from date not null,
    valid_to date,
    source text not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint rate_vendor_known check (vendor in ('keystone', 'wolkvox')),
    constraint rate_charge_known check (
        vendor = 'keystone' and charge in ('committed', 'burst') or vendor = 'wolkvox' and charge in ('license', 'usage')
    ),
    constraint rate_waives_burst check (not is_waiver or charge = 'burst'),
    constraint rate_of_wolkvox_by_account check (vendor = 'keystone' or customer_id = '' and subscription_number = ''),
    constraint rate_price_finite check (unit_price >= 0 and unit_price < 'Infinity'),
    constraint rate_currency_form check (currency ~ '^[A-Z]{3}$'),
    constraint rate_valid_forward check (valid_from <= valid_to),
    constraint rate_known_forward check (known_since <= superseded_at),
    constraint rate_no_overlap exclude using gist (
        billing.key_range(vendor, account, customer_id, subscription_number, item, charge, is_waiver::text) with =,
        daterange(valid_from, valid_to, '[]') with &&
    ) where (superseded_at is null)
);
comment on table billing.rate is 'Grain: one row per price and the days on which it holds, as imported; a replaced row stays with superseded_at.';
comment on column billing.rate.rate_id is 'Number of the row.';
comment on column billing.rate.vendor is 'keystone or wolkvox.';
comment on column billing.rate.account is 'Configured account; empty: any.';
comment on column billing.rate.customer_id is 'Keystone customer; empty: any.';
comment on column billing.rate.subscription_number is 'Keystone subscription; empty: any.';
comment on column billing.rate.item is 'Service level or wolkvox product, by name; empty: any that is classified.';
comment on column billing.rate.charge is 'committed or burst (TiB for a month), license (items of a gauge for a month) or usage (units of a counter).';
comment on column billing.rate.is_waiver is 'Whether it prices burst of the first 60 days of a subscription; such burst has no other price.';
comment on column billing.rate.unit_price is 'Price of one unit, exact.';
comment on column billing.rate.currency is 'ISO 4217 code.';
comment on column billing.rate.valid_from is 'First day, UTC for keystone and local for wolkvox.';
comment on column billing.rate.valid_to is 'Last day, inclusive; NULL: no end.';
comment on column billing.rate.source is 'File and line it was imported from.';
comment on column billing.rate.known_since is 'Business clock of the import.';
comment on column billing.rate.superseded_at is 'Business clock of the import that replaced or removed it; NULL while it holds.';

create table billing.period (
    period_id bigint generated always as identity constraint period_pkey primary key,
    customer_id text collate "C" not null,
    subscription_number text collate "C" not null,
    clock text not null,
    period_start date not null,
    period_end date not null,
    schedule text not null,
    source text not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint period_clock_known check (clock in ('committed', 'burst')),
    constraint period_schedule_known check (schedule in ('monthly', 'quarterly', 'semi_annual', 'annual')),
    constraint period_forward check (period_start <= period_end),
    constraint period_known_forward check (known_since <= superseded_at),
    constraint period_no_overlap exclude using gist (
        billing.key_range(customer_id, subscription_number, clock) with =,
        daterange(period_start, period_end, '[]') with &&
    ) where (superseded_at is null)
);
comment on table billing.period is 'Grain: one row per billing period of a subscription and clock. The periods of a clock tile time: no overlap, no gap. A subscription without rows is billed by calendar month.';
comment on column billing.period.period_id is 'Number of the row.';
comment on column billing.period.customer_id is 'The vendor''s id of the customer.';
comment on column billing.period.subscription_number is 'The vendor''s number of the subscription.';
comment on column billing.period.clock is 'committed or burst: the charge that is billed by these periods.';
comment on column billing.period.period_start is 'First day, UTC.';
comment on column billing.period.period_end is 'Last day, UTC, inclusive. The line is of the month in which it lies.';
comment on column billing.period.schedule is 'Schedule of the contract that the period follows: monthly, quarterly, semi_annual or annual.';
comment on column billing.period.source is 'File and line it was imported from, or how it was generated.';
comment on column billing.period.known_since is 'Business clock of the import.';
comment on column billing.period.superseded_at is 'Business clock of the import that replaced or removed it; NULL while it holds.';

create table billing.product_rule (
    product_rule_id bigint generated always as identity constraint product_rule_pkey primary key,
    product text collate "C" not null,
    rule text not null,
    reason text not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint product_rule_rule_known check (rule in ('max', 'last', 'average')),
    constraint product_rule_known_forward check (known_since <= superseded_at)
);
create unique index product_rule_current_idx on billing.product_rule (product) where superseded_at is null;
comment on table billing.product_rule is 'Grain: one row per decision how a month of a wolkvox gauge becomes a quantity. Without one it is max. Counters are always the last good reading of the local month.';
comment on column billing.product_rule.product_rule_id is 'Number of the row.';
comment on column billing.product_rule.product is 'The vendor''s name of the report, as dw.dim_product.api.';
comment on column billing.product_rule.rule is 'max (greatest reading of the month), last (last reading) or average (mean of the days'' last readings).';
comment on column billing.product_rule.reason is 'Why it was decided so.';
comment on column billing.product_rule.known_since is 'Business clock of the decision.';
comment on column billing.product_rule.superseded_at is 'Business clock of the next one; NULL while it holds.';

create table billing.absence (
    absence_id bigint generated always as identity constraint absence_pkey primary key,
    customer_id text collate "C" not null,
    subscription_number text collate "C" not null,
    service_level text collate "C" not null,
    level_ordinal integer not null default 0,
    first_day date not null,
    last_day date not null,
    decision text not null,
    reason text not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint absence_decision_known check (decision in ('keep', 'drop')),
    constraint absence_forward check (first_day <= last_day),
    constraint absence_known_forward check (known_since <= superseded_at),
    constraint absence_no_overlap exclude using gist (
        billing.key_range(customer_id, subscription_number, service_level, level_ordinal::text) with =,
        daterange(first_day, last_day, '[]') with &&
    ) where (superseded_at is null)
);
comment on table billing.absence is 'Grain: one row per decision about days that the vendor delivered once and delivers no more: are their figures kept or dropped from statements.';
comment on column billing.absence.absence_id is 'Number of the row.';
comment on column billing.absence.customer_id is 'The vendor''s id of the customer.';
comment on column billing.absence.subscription_number is 'The vendor''s number of the subscription.';
comment on column billing.absence.service_level is 'Name of the level as delivered.';
comment on column billing.absence.level_ordinal is '0-based instance among equal names.';
comment on column billing.absence.first_day is 'First day, UTC.';
comment on column billing.absence.last_day is 'Last day, UTC, inclusive.';
comment on column billing.absence.decision is 'keep (the stored figures count) or drop (the days count as never consumed and nothing committed).';
comment on column billing.absence.reason is 'Why it was decided so.';
comment on column billing.absence.known_since is 'Business clock of the decision.';
comment on column billing.absence.superseded_at is 'Business clock of the next one; NULL while it holds.';

-- +goose Down
drop table billing.absence;
drop table billing.product_rule;
drop table billing.period;
drop table billing.rate;
drop function billing.key_range(text[]);
drop schema billing;
