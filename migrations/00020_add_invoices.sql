-- Invoices of the vendors, as they were handed in: what match compares with the statement. A changed
-- invoice is a new version of it; the former one stays with superseded_at. New tables and a view: locks
-- nothing; nothing to replay.

-- +goose Up
create table billing.invoice (
    invoice_id bigint generated always as identity constraint invoice_pkey primary key,
    vendor text not null,
    number text collate "C" not null,
    invoice_date date not null,
    currency text collate "C" not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint invoice_vendor_known check (vendor in ('keystone', 'wolkvox')),
    constraint invoice_number_given check (number <> ''),
    constraint invoice_currency_form check (currency ~ '^[A-Z]{3}$'),
    constraint invoice_known_forward check (known_since <= superseded_at)
);
create unique index invoice_current_idx on billing.invoice (vendor, number) where superseded_at is null;
create trigger invoice_kept before update or delete on billing.invoice for each row execute function billing.refuse_rewriting();
comment on table billing.invoice is 'Grain: one row per invoice and version of it that was imported. Its lines are in billing.invoice_line.';
comment on column billing.invoice.invoice_id is 'Number of the version.';
comment on column billing.invoice.vendor is 'keystone or wolkvox.';
comment on column billing.invoice.number is 'The vendor''s number of the invoice.';
comment on column billing.invoice.invoice_date is 'Date of the invoice, as printed: what the vendor knew by its end is what the invoice can tell.';
comment on column billing.invoice.currency is 'ISO 4217 code of all its amounts.';
comment on column billing.invoice.known_since is 'Business clock of the import.';
comment on column billing.invoice.superseded_at is 'Business clock of the import of the next version; NULL while it holds.';

create table billing.invoice_line (
    invoice_line_id bigint generated always as identity constraint invoice_line_pkey primary key,
    invoice_id bigint not null constraint invoice_line_invoice_id_fkey references billing.invoice (invoice_id),
    line_number integer not null,
    account text collate "C" not null default '',
    customer_id text collate "C" not null default '',
    subscription_number text collate "C" not null default '',
    item text collate "C" not null default '',
    charge text not null,
    period_start date not null,
    period_end date not null,
    quantity numeric,
    unit_price numeric,
    amount numeric not null,
    line_text text not null default '',
    source text not null,
    known_since timestamptz not null,
    superseded_at timestamptz,
    constraint invoice_line_line_number_key unique (invoice_id, line_number),
    constraint invoice_line_number_counted check (line_number > 0),
    constraint invoice_line_charge_known check (charge in ('committed', 'burst', 'license', 'usage', 'other')),
    constraint invoice_line_period_forward check (period_start <= period_end),
    constraint invoice_line_quantity_finite check (quantity > '-Infinity' and quantity < 'Infinity'),
    constraint invoice_line_price_finite check (unit_price > '-Infinity' and unit_price < 'Infinity'),
    constraint invoice_line_amount_finite check (amount > '-Infinity' and amount < 'Infinity'),
    constraint invoice_line_known_forward check (known_since <= superseded_at)
);
create index invoice_line_period_idx on billing.invoice_line (period_end) where superseded_at is null;
create trigger invoice_line_kept before update or delete on billing.invoice_line for each row execute function billing.refuse_rewriting();
comment on table billing.invoice_line is 'Grain: one row per line of an imported version of an invoice.';
comment on column billing.invoice_line.invoice_line_id is 'Number of the row.';
comment on column billing.invoice_line.invoice_id is 'Version of the invoice that it is of.';
comment on column billing.invoice_line.line_number is 'Number of the line in the invoice: as printed, else its place in the file, from 1.';
comment on column billing.invoice_line.account is 'Configured account; empty: as the subscription tells, or the only one.';
comment on column billing.invoice_line.customer_id is 'Keystone customer; empty: as the subscription tells.';
comment on column billing.invoice_line.subscription_number is 'Keystone subscription; empty for wolkvox.';
comment on column billing.invoice_line.item is 'Service level or wolkvox product, in our words.';
comment on column billing.invoice_line.charge is 'committed, burst, license, usage; other: what no meter tells, as taxes and credits.';
comment on column billing.invoice_line.period_start is 'First day that is charged for.';
comment on column billing.invoice_line.period_end is 'Last day that is charged for, inclusive. The line is of the month in which it lies.';
comment on column billing.invoice_line.quantity is 'Quantity as printed; NULL when there is none.';
comment on column billing.invoice_line.unit_price is 'Price of one unit as printed; NULL when there is none.';
comment on column billing.invoice_line.amount is 'What is charged, exact as printed; negative for a credit.';
comment on column billing.invoice_line.line_text is 'What the invoice says of the line.';
comment on column billing.invoice_line.source is 'File and line it was imported from.';
comment on column billing.invoice_line.known_since is 'Business clock of the import.';
comment on column billing.invoice_line.superseded_at is 'Business clock of the import of the next version of the invoice; NULL while it holds.';

create view mart.invoice_line as
select
    to_char(l.period_end, 'YYYY-MM') as period,
    i.vendor as source,
    i.number as invoice_number,
    i.invoice_date,
    l.line_number,
    l.customer_id,
    l.account,
    l.subscription_number,
    l.item,
    l.charge,
    l.period_start,
    l.period_end,
    l.quantity,
    l.unit_price,
    l.amount,
    i.currency,
    l.line_text,
    l.source as imported_from,
    l.known_since
from billing.invoice_line as l
join billing.invoice as i using (invoice_id)
where l.superseded_at is null and i.superseded_at is null;
comment on view mart.invoice_line is 'Grain: one row per line of an imported invoice, in its newest version. What each line is compared with is told by meterhouse match: the recomputation behind it is no work for a view.';
comment on column mart.invoice_line.period is 'Month, YYYY-MM, in which the period of the line ends.';
comment on column mart.invoice_line.source is 'Vendor: keystone or wolkvox.';
comment on column mart.invoice_line.invoice_number is 'The vendor''s number of the invoice.';
comment on column mart.invoice_line.invoice_date is 'Date of the invoice, as printed.';
comment on column mart.invoice_line.line_number is 'Number of the line in the invoice: as printed, else its place in the file.';
comment on column mart.invoice_line.customer_id is 'Keystone customer; empty: not printed.';
comment on column mart.invoice_line.account is 'Configured account; empty: not told.';
comment on column mart.invoice_line.subscription_number is 'Keystone subscription; empty for wolkvox.';
comment on column mart.invoice_line.item is 'Service level or wolkvox product, in our words.';
comment on column mart.invoice_line.charge is 'committed, burst, license, usage or other.';
comment on column mart.invoice_line.period_start is 'First day that is charged for.';
comment on column mart.invoice_line.period_end is 'Last day that is charged for, inclusive.';
comment on column mart.invoice_line.quantity is 'Quantity as printed; NULL when there is none.';
comment on column mart.invoice_line.unit_price is 'Price of one unit as printed; NULL when there is none.';
comment on column mart.invoice_line.amount is 'What is charged, as printed; negative for a credit. Never sum across currencies.';
comment on column mart.invoice_line.currency is 'ISO 4217 code.';
comment on column mart.invoice_line.line_text is 'What the invoice says of the line.';
comment on column mart.invoice_line.imported_from is 'File and line it was imported from.';
comment on column mart.invoice_line.known_since is 'Business clock of the import.';

-- +goose Down
drop view mart.invoice_line;
drop table billing.invoice_line;
drop table billing.invoice;
