-- Closed months: frozen copies of a statement and its days, chained by hashes, to which rows are only
-- ever added; reopening, and what changed of closed months since as adjustments of the open one. The
-- statement of a closed month comes from its frozen lines. New tables and functions: locks nothing for
-- long; nothing to replay. Owner and grants of the frozen tables are set beside the migrations, since
-- roles are of the whole server.

-- +goose Up
create table billing.chain (
    link bigint constraint chain_pkey primary key,
    kind text not null,
    period text not null,
    at timestamptz not null,
    previous_hash bytea not null,
    hash bytea not null,
    constraint chain_link_positive check (link > 0),
    constraint chain_kind_known check (kind in ('close', 'reopen')),
    constraint chain_period_form check (period ~ '^[0-9]{4}-(0[1-9]|1[0-2])$'),
    constraint chain_hash_size check (length(previous_hash) = 32 and length(hash) = 32),
    constraint chain_hash_once unique (hash),
    constraint chain_not_forked unique (previous_hash)
);
comment on table billing.chain is 'Grain: one row per close or reopening of a month, in the order in which they were done. Insert only. hash = SHA-256 of previous_hash, the header''s text (UTF-8) and, of a close, the SHA-256 of each line and then of each day, in order.';
comment on column billing.chain.link is 'Number in the chain, from 1.';
comment on column billing.chain.kind is 'close or reopen: what the row of this number in billing.close or billing.reopen did.';
comment on column billing.chain.period is 'The month, YYYY-MM. It is closed when its last link is a close.';
comment on column billing.chain.at is 'Business clock of the close or reopening.';
comment on column billing.chain.previous_hash is 'hash of the link before; 32 zero bytes for the first.';
comment on column billing.chain.hash is 'As described at the table: billing.link_hash(link) computes it again.';

create table billing.close (
    link bigint constraint close_pkey primary key constraint close_chain_fkey references billing.chain (link) deferrable initially deferred,
    period text not null,
    version integer not null,
    closed_at timestamptz not null,
    closed_by text not null,
    database_user text not null,
    accepted text,
    reason text,
    lines integer not null,
    adjustments integer not null,
    days integer not null,
    totals text not null,
    adjustment_totals text not null,
    canonical text not null,
    constraint close_version_once unique (period, version),
    constraint close_accepted_with_reason check ((accepted is null) = (reason is null))
);
comment on table billing.close is 'Grain: one row per close of a month; a month that was reopened and closed again has another version. Insert only.';
comment on column billing.close.link is 'Number in billing.chain.';
comment on column billing.close.period is 'The month, YYYY-MM.';
comment on column billing.close.version is 'How many times the month was closed with this one.';
comment on column billing.close.closed_at is 'Business clock: what was known then is what is frozen.';
comment on column billing.close.closed_by is 'The person, as told, else the user of the system.';
comment on column billing.close.database_user is 'Role that was connected.';
comment on column billing.close.accepted is 'What stood against the close and was accepted, one a line; NULL when nothing did.';
comment on column billing.close.reason is 'Why it was accepted; NULL when nothing was.';
comment on column billing.close.lines is 'Frozen lines of the statement.';
comment on column billing.close.adjustments is 'Frozen adjustments of months closed before.';
comment on column billing.close.days is 'Frozen days.';
comment on column billing.close.totals is 'Sums of the lines'' amounts: currency and amount, several parted by semicolons; empty without amounts.';
comment on column billing.close.adjustment_totals is 'Sums of the adjustments'' amounts, likewise.';
comment on column billing.close.canonical is 'The columns before it as text, by billing.canonical: the header of the link.';

create table billing.reopen (
    link bigint constraint reopen_pkey primary key constraint reopen_chain_fkey references billing.chain (link) deferrable initially deferred,
    period text not null,
    version integer not null,
    reopened_at timestamptz not null,
    reopened_by text not null,
    database_user text not null,
    reason text not null,
    canonical text not null,
    constraint reopen_close_fkey foreign key (period, version) references billing.close (period, version),
    constraint reopen_version_once unique (period, version),
    constraint reopen_reason_told check (reason <> '')
);
comment on table billing.reopen is 'Grain: one row per reopening of a closed month. The version that was closed stays. Insert only.';
comment on column billing.reopen.link is 'Number in billing.chain.';
comment on column billing.reopen.period is 'The month, YYYY-MM.';
comment on column billing.reopen.version is 'Version of billing.close that it takes out of force.';
comment on column billing.reopen.reopened_at is 'Business clock.';
comment on column billing.reopen.reopened_by is 'The person, as told, else the user of the system.';
comment on column billing.reopen.database_user is 'Role that was connected.';
comment on column billing.reopen.reason is 'Why.';
comment on column billing.reopen.canonical is 'The columns before it as text, by billing.canonical: the header of the link.';

create table billing.closed_line (
    link bigint not null constraint closed_line_chain_fkey references billing.chain (link) deferrable initially deferred,
    line_no integer not null,
    kind text not null,
    period_start date,
    period_end date,
    source text not null,
    customer_id text not null,
    account text not null,
    subscription_number text not null,
    item text not null,
    charge text not null,
    quantity numeric,
    unit text not null,
    unit_price numeric,
    amount numeric,
    currency text,
    state text,
    days_expected integer,
    days_observed integer,
    discriminator text not null,
    description text not null,
    is_waiver boolean not null,
    level_class text,
    days_estimated integer,
    segment_from date,
    segment_to date,
    rate_id bigint,
    note text,
    adjusts_period text,
    usage_date date,
    reason text,
    known_since timestamptz,
    parts numeric,
    worth numeric,
    canonical text not null,
    sha256 bytea not null,
    constraint closed_line_pkey primary key (link, line_no),
    constraint closed_line_kind_known check (kind in ('statement', 'adjustment')),
    constraint closed_line_kind_told check ((kind = 'adjustment') = (adjusts_period is not null) and (kind = 'adjustment') = (reason is not null)),
    constraint closed_line_amount_with_currency check ((amount is null) = (currency is null))
);
create index closed_line_adjusts_idx on billing.closed_line (adjusts_period) where kind = 'adjustment';
comment on table billing.closed_line is 'Grain: one row per line of a closed statement, and per adjustment of an earlier month that was frozen with it. Insert only. Amounts of different currencies are never summed.';
comment on column billing.closed_line.link is 'The close, as billing.close.link.';
comment on column billing.closed_line.line_no is 'Number of the line, from 1: the order in which hashes are chained.';
comment on column billing.closed_line.kind is 'statement (a line of the month itself) or adjustment (what changed of a month closed before).';
comment on column billing.closed_line.period_start is 'As in mart.statement; of an adjustment the usage day.';
comment on column billing.closed_line.period_end is 'As in mart.statement; of an adjustment the usage day.';
comment on column billing.closed_line.source is 'As in mart.statement.';
comment on column billing.closed_line.customer_id is 'As in mart.statement.';
comment on column billing.closed_line.account is 'As in mart.statement.';
comment on column billing.closed_line.subscription_number is 'As in mart.statement.';
comment on column billing.closed_line.item is 'As in mart.statement.';
comment on column billing.closed_line.charge is 'As in mart.statement.';
comment on column billing.closed_line.quantity is 'As in mart.statement; of an adjustment what is to be added, in the unit.';
comment on column billing.closed_line.unit is 'As in mart.statement.';
comment on column billing.closed_line.unit_price is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.amount is 'As in mart.statement; of an adjustment what is to be added, in the currency.';
comment on column billing.closed_line.currency is 'As in mart.statement.';
comment on column billing.closed_line.state is 'State of the line when it was closed: provisional or final; NULL for an adjustment.';
comment on column billing.closed_line.days_expected is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.days_observed is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.discriminator is 'As in mart.statement.';
comment on column billing.closed_line.description is 'As in mart.statement.';
comment on column billing.closed_line.is_waiver is 'As in mart.statement.';
comment on column billing.closed_line.level_class is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.days_estimated is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.segment_from is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.segment_to is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.rate_id is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.note is 'As in mart.statement; NULL for an adjustment.';
comment on column billing.closed_line.adjusts_period is 'Month that is adjusted; NULL for a line of the statement.';
comment on column billing.closed_line.usage_date is 'Day that is adjusted; NULL for a line of the statement.';
comment on column billing.closed_line.reason is 'As in mart.adjustment; NULL for a line of the statement.';
comment on column billing.closed_line.known_since is 'As in mart.adjustment; NULL for a line of the statement.';
comment on column billing.closed_line.parts is 'Of an adjustment its exact quantity times billing.exact_scale(); NULL for a line of the statement.';
comment on column billing.closed_line.worth is 'Of an adjustment its exact amount, not rounded, times billing.exact_scale(); NULL for a line of the statement.';
comment on column billing.closed_line.canonical is 'The columns before it as text, by billing.canonical.';
comment on column billing.closed_line.sha256 is 'SHA-256 of canonical in UTF-8.';

create table billing.closed_day (
    link bigint not null constraint closed_day_chain_fkey references billing.chain (link) deferrable initially deferred,
    day_no integer not null,
    period_start date not null,
    period_end date not null,
    source text not null,
    customer_id text not null,
    account text not null,
    subscription_number text not null,
    discriminator text not null,
    item text not null,
    level_ordinal integer not null,
    description text not null,
    charge text not null,
    is_waiver boolean not null,
    day date not null,
    quantity numeric,
    scale integer not null,
    basis text not null,
    known_since timestamptz,
    reading numeric,
    doubt text,
    rate_id bigint,
    canonical text not null,
    sha256 bytea not null,
    constraint closed_day_pkey primary key (link, day_no)
);
create index closed_day_day_idx on billing.closed_day (customer_id, day) where charge = 'committed';
create index closed_day_gap_idx on billing.closed_day (link) where charge = 'committed' and basis in ('missing', 'estimated');
comment on table billing.closed_day is 'Grain: one row per day and level instance (or reading) behind the lines of a closed statement. Insert only.';
comment on column billing.closed_day.link is 'The close, as billing.close.link.';
comment on column billing.closed_day.day_no is 'Number of the row, from 1: the order in which hashes are chained.';
comment on column billing.closed_day.period_start is 'First day of the billing period.';
comment on column billing.closed_day.period_end is 'Last day of the billing period, inclusive.';
comment on column billing.closed_day.source is 'keystone or wolkvox.';
comment on column billing.closed_day.customer_id is 'Keystone customer; empty for wolkvox.';
comment on column billing.closed_day.account is 'Configured account.';
comment on column billing.closed_day.subscription_number is 'Keystone subscription; empty for wolkvox.';
comment on column billing.closed_day.discriminator is 'Tells subscriptions of one number apart; for wolkvox the operation.';
comment on column billing.closed_day.item is 'Service level by name, or wolkvox product.';
comment on column billing.closed_day.level_ordinal is '0-based instance among equal names.';
comment on column billing.closed_day.description is 'What the wolkvox figure belongs to; empty for keystone.';
comment on column billing.closed_day.charge is 'committed, burst, license or usage.';
comment on column billing.closed_day.is_waiver is 'Whether it is burst of the first 60 days of the subscription.';
comment on column billing.closed_day.day is 'The day, UTC (keystone) or local (wolkvox).';
comment on column billing.closed_day.quantity is 'quantity / scale is the day''s part of its line''s quantity, exact; NULL where unknown.';
comment on column billing.closed_day.scale is 'Divisor of quantity.';
comment on column billing.closed_day.basis is 'observed, estimated, absent_kept, dropped or missing.';
comment on column billing.closed_day.known_since is 'Since when the figures of the day were known; NULL without.';
comment on column billing.closed_day.reading is 'The figure of the day itself: TiB committed, accrued burst, items.';
comment on column billing.closed_day.doubt is 'What kept the line from being final; NULL when nothing did.';
comment on column billing.closed_day.rate_id is 'The price in billing.rate; NULL without one.';
comment on column billing.closed_day.canonical is 'The columns before it as text, by billing.canonical.';
comment on column billing.closed_day.sha256 is 'SHA-256 of canonical in UTF-8.';

-- +goose StatementBegin
create function billing.canonical(parts text[]) returns text
language sql immutable parallel safe
set search_path = pg_catalog
as $$
    select case
        when array_to_string(parts, '') ~ E'[\\\\|\n\r]' then (
            select string_agg(coalesce(replace(replace(replace(replace(p, E'\\', E'\\\\'), '|', E'\\|'), E'\n', E'\\n'), E'\r', E'\\r'), E'\\N'), '|' order by n)
            from unnest(parts) with ordinality as u (p, n)
        )
        else array_to_string(parts, '|', E'\\N')
    end
$$;
-- +goose StatementEnd
comment on function billing.canonical(text[]) is 'Columns of a frozen row as one text: parted by |, NULL as \N; backslash, |, line feed and carriage return as \\, \|, \n and \r. Dates are YYYY-MM-DD, times YYYY-MM-DDTHH:MM:SS.ffffffZ, numbers without trailing zeros, truth true or false.';

-- +goose StatementBegin
create function billing.canonical_close(c billing.close) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        c.link::text, c.period, c.version::text, to_char(c.closed_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), c.closed_by,
        c.database_user, c.accepted, c.reason, c.lines::text, c.adjustments::text, c.days::text, c.totals, c.adjustment_totals
    ])
$$;
-- +goose StatementEnd
comment on function billing.canonical_close(billing.close) is 'Canonical text of a close: its columns in their order.';

-- +goose StatementBegin
create function billing.canonical_reopen(r billing.reopen) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        r.link::text, r.period, r.version::text, to_char(r.reopened_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), r.reopened_by,
        r.database_user, r.reason
    ])
$$;
-- +goose StatementEnd
comment on function billing.canonical_reopen(billing.reopen) is 'Canonical text of a reopening: its columns in their order.';

-- +goose StatementBegin
create function billing.canonical_line(l billing.closed_line) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        l.link::text, l.line_no::text, l.kind, to_char(l.period_start, 'YYYY-MM-DD'), to_char(l.period_end, 'YYYY-MM-DD'), l.source, l.customer_id,
        l.account, l.subscription_number, l.item, l.charge, trim_scale(l.quantity)::text, l.unit, trim_scale(l.unit_price)::text,
        trim_scale(l.amount)::text, l.currency, l.state, l.days_expected::text, l.days_observed::text, l.discriminator, l.description,
        l.is_waiver::text, l.level_class, l.days_estimated::text, to_char(l.segment_from, 'YYYY-MM-DD'), to_char(l.segment_to, 'YYYY-MM-DD'),
        l.rate_id::text, l.note, l.adjusts_period, to_char(l.usage_date, 'YYYY-MM-DD'), l.reason,
        to_char(l.known_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), trim_scale(l.parts)::text, trim_scale(l.worth)::text
    ])
$$;
-- +goose StatementEnd
comment on function billing.canonical_line(billing.closed_line) is 'Canonical text of a frozen line: its columns in their order.';

-- +goose StatementBegin
create function billing.canonical_day(d billing.closed_day) returns text
language sql stable
set search_path = pg_catalog
as $$
    select billing.canonical(array[
        d.link::text, d.day_no::text, to_char(d.period_start, 'YYYY-MM-DD'), to_char(d.period_end, 'YYYY-MM-DD'), d.source, d.customer_id, d.account,
        d.subscription_number, d.discriminator, d.item, d.level_ordinal::text, d.description, d.charge, d.is_waiver::text,
        to_char(d.day, 'YYYY-MM-DD'), trim_scale(d.quantity)::text, d.scale::text, d.basis,
        to_char(d.known_since at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), trim_scale(d.reading)::text, d.doubt, d.rate_id::text
    ])
$$;
-- +goose StatementEnd
comment on function billing.canonical_day(billing.closed_day) is 'Canonical text of a frozen day: its columns in their order.';

-- +goose StatementBegin
create function billing.seal() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    if exists (select from billing.chain as c where c.link = new.link) then
        raise exception 'link % of the closed months is sealed: nothing is added to it', new.link
            using errcode = 'restrict_violation', hint = 'Reopen the month and close it again.';
    end if;
    case tg_table_name
        when 'close' then new.canonical := billing.canonical_close(new);
        when 'reopen' then new.canonical := billing.canonical_reopen(new);
        when 'closed_line' then new.canonical := billing.canonical_line(new);
        else new.canonical := billing.canonical_day(new);
    end case;
    if tg_table_name like 'closed%' then
        new.sha256 := sha256(convert_to(new.canonical, 'UTF8'));
    end if;
    return new;
end
$$;
-- +goose StatementEnd
comment on function billing.seal() is 'Trigger: a frozen row gets its canonical text and hash, and only as long as its close is not in the chain.';

-- +goose StatementBegin
create function billing.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    raise exception 'rows of billing.% are never changed or deleted: % refused', tg_table_name, lower(tg_op)
        using errcode = 'restrict_violation', hint = 'Reopen the month with a reason, and close it again.';
end
$$;
-- +goose StatementEnd
comment on function billing.refuse_change() is 'Trigger: what is closed stays as it is, whoever asks.';

-- +goose StatementBegin
create function billing.link_hash(link bigint) returns bytea
language sql stable
set search_path = pg_catalog
as $$
    select sha256(
        coalesce((select c.hash from billing.chain as c where c.link = link_hash.link - 1), decode(repeat('00', 32), 'hex'))
        || coalesce(
            (select convert_to(c.canonical, 'UTF8') from billing.close as c where c.link = link_hash.link),
            (select convert_to(r.canonical, 'UTF8') from billing.reopen as r where r.link = link_hash.link)
        )
        || coalesce((select string_agg(l.sha256, ''::bytea order by l.line_no) from billing.closed_line as l where l.link = link_hash.link), '')
        || coalesce((select string_agg(d.sha256, ''::bytea order by d.day_no) from billing.closed_day as d where d.link = link_hash.link), '')
    )
$$;
-- +goose StatementEnd
comment on function billing.link_hash(bigint) is 'The hash of a link from what is stored: equal to billing.chain.hash unless something was changed.';

-- +goose StatementBegin
create function billing.extend_chain() returns trigger
language plpgsql
set search_path = pg_catalog
as $$
begin
    if new.link <> 1 + coalesce((select max(c.link) from billing.chain as c), 0)
        or new.previous_hash <> coalesce((select c.hash from billing.chain as c where c.link = new.link - 1), decode(repeat('00', 32), 'hex'))
        or new.hash is distinct from billing.link_hash(new.link)
    then
        raise exception 'link % does not go on from the end of the chain', new.link
            using errcode = 'restrict_violation', hint = 'Months are closed and reopened by the program only.';
    end if;
    return new;
end
$$;
-- +goose StatementEnd
comment on function billing.extend_chain() is 'Trigger: a link follows on the last one, with the hash of what it seals.';

create trigger close_sealed before insert on billing.close for each row execute function billing.seal();
create trigger reopen_sealed before insert on billing.reopen for each row execute function billing.seal();
create trigger closed_line_sealed before insert on billing.closed_line for each row execute function billing.seal();
create trigger closed_day_sealed before insert on billing.closed_day for each row execute function billing.seal();
create trigger chain_extended before insert on billing.chain for each row execute function billing.extend_chain();
create trigger chain_kept before update or delete or truncate on billing.chain for each statement execute function billing.refuse_change();
create trigger close_kept before update or delete or truncate on billing.close for each statement execute function billing.refuse_change();
create trigger reopen_kept before update or delete or truncate on billing.reopen for each statement execute function billing.refuse_change();
create trigger closed_line_kept before update or delete or truncate on billing.closed_line for each statement execute function billing.refuse_change();
create trigger closed_day_kept before update or delete or truncate on billing.closed_day for each statement execute function billing.refuse_change();
-- Always: session_replication_role does not put them to sleep.
alter table billing.close enable always trigger close_sealed, enable always trigger close_kept;
alter table billing.reopen enable always trigger reopen_sealed, enable always trigger reopen_kept;
alter table billing.closed_line enable always trigger closed_line_sealed, enable always trigger closed_line_kept;
alter table billing.closed_day enable always trigger closed_day_sealed, enable always trigger closed_day_kept;
alter table billing.chain enable always trigger chain_extended, enable always trigger chain_kept;

-- +goose StatementBegin
create function billing.closed_link(period text, as_of timestamptz default 'infinity') returns bigint
language sql stable security definer
set search_path = pg_catalog
as $$
    select case when last.kind = 'close' then last.link end
    from (
        select c.kind, c.link
        from billing.chain as c
        where c.period = closed_link.period and c.at <= closed_link.as_of
        order by c.link desc
        limit 1
    ) as last
$$;
-- +goose StatementEnd
comment on function billing.closed_link(text, timestamptz) is 'The close that was in force for a month at an instant (infinity: now); NULL while the month is open.';

create or replace function billing.is_closed(period text) returns boolean
language sql stable
set search_path = pg_catalog
as $$
    select billing.closed_link(period) is not null
$$;

-- +goose StatementBegin
create function billing.computed_statement_day(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, rate_id bigint
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select
        p.period, p.period_start, p.period_end, p.source, p.customer_id, p.account, p.subscription_number,
        p.discriminator, p.item, p.level_ordinal, p.description, p.charge, p.is_waiver, p.day,
        p.quantity, p.scale, p.basis, p.known_since, p.reading, p.doubt, p.rate_id
    from billing.statement_part(computed_statement_day.period, computed_statement_day.as_of) as p
    where p.basis <> 'not_due'
$$;
-- +goose StatementEnd
comment on function billing.computed_statement_day(text, timestamptz) is 'billing.statement_day from facts, prices and decisions, whether the month is closed or not.';

-- +goose StatementBegin
create or replace function billing.statement_day(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, rate_id bigint
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select
        statement_day.period, c.period_start, c.period_end, c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item,
        c.level_ordinal, c.description, c.charge, c.is_waiver, c.day, c.quantity, c.scale, c.basis, c.known_since, c.reading,
        c.doubt, c.rate_id
    from billing.closed_day as c
    where c.link = billing.closed_link(statement_day.period, statement_day.as_of)

    union all

    select s.*
    from billing.computed_statement_day(statement_day.period, statement_day.as_of) as s
    where billing.closed_link(statement_day.period, statement_day.as_of) is null
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create or replace function billing.statement(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text, item text,
    charge text, quantity numeric, unit text, unit_price numeric, amount numeric, currency text, state text,
    days_expected integer, days_observed integer, discriminator text, description text, is_waiver boolean, level_class text,
    days_estimated integer, segment_from date, segment_to date, rate_id bigint, note text
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select
        statement.period, c.period_start, c.period_end, c.source, c.customer_id, c.account, c.subscription_number, c.item, c.charge,
        c.quantity, c.unit, c.unit_price, c.amount, c.currency, 'closed', c.days_expected, c.days_observed, c.discriminator,
        c.description, c.is_waiver, c.level_class, c.days_estimated, c.segment_from, c.segment_to, c.rate_id, c.note
    from billing.closed_line as c
    where c.kind = 'statement' and c.link = billing.closed_link(statement.period, statement.as_of)

    union all

    select s.*
    from billing.computed_statement(statement.period, statement.as_of) as s
    where billing.closed_link(statement.period, statement.as_of) is null
$$;
-- +goose StatementEnd
comment on function billing.statement(text, timestamptz) is 'The statement of a month as known at an instant (infinity: now): the frozen lines of a month that was closed then, else computed. Columns as in mart.statement.';

-- +goose StatementBegin
create function billing.exact_scale() returns numeric
language sql immutable parallel safe
as $$ select 72201776446800::numeric $$;
-- +goose StatementEnd
comment on function billing.exact_scale() is 'lcm(1, …, 31): a multiple of every scale of a statement''s days, so that parts of different scales add up exactly.';

-- +goose StatementBegin
create function billing.open_period() returns text
language sql stable security definer
set search_path = pg_catalog
as $$
    select to_char((max(c.period) || '-01')::date + interval '1 month', 'YYYY-MM')
    from (select distinct on (c.period) c.period, c.kind from billing.chain as c order by c.period, c.link desc) as c
    where c.kind = 'close'
$$;
-- +goose StatementEnd
comment on function billing.open_period() is 'The month after the last closed one: what changes of closed months is adjusted in it. NULL while none is closed.';

-- +goose StatementBegin
create function billing.adjustment(adjusts_period text)
returns table (
    source text, customer_id text, account text, subscription_number text, discriminator text, item text, description text, charge text,
    is_waiver boolean, unit text, usage_date date, quantity numeric, amount numeric, currency text, reason text, known_since timestamptz,
    parts numeric, worth numeric
)
language sql stable security definer
set search_path = pg_catalog
set enable_nestloop = off
set jit = off
set work_mem = '64MB'
as $$
with base as materialized (
    select billing.closed_link(adjustment.adjusts_period) as link, (
        select max(c.at) from billing.chain as c where c.period = adjustment.adjusts_period
    ) as at
),

-- Days as they are now and as the month shows them, priced: with what they add to a quantity and to an
-- amount, times the scale. A month that was reopened shows what is now.
live_day as materialized (
    select * from billing.computed_statement_day(adjustment.adjusts_period, 'infinity')
),

day_of as materialized (
    select true as is_live, d.* from live_day as d
    union all
    select false, d.* from live_day as d where (select link from base) is null
    union all
    select false, adjustment.adjusts_period, c.period_start, c.period_end, c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item,
        c.level_ordinal, c.description, c.charge, c.is_waiver, c.day, c.quantity, c.scale, c.basis, c.known_since, c.reading,
        c.doubt, c.rate_id
    from billing.closed_day as c
    where c.link = (select link from base)
),

valued as materialized (
    select
        d.*, coalesce(r.currency, '') as currency, r.known_since as price_known_since, r.superseded_at as price_superseded_at,
        array_to_string(array[d.source, d.customer_id, d.account, d.subscription_number, d.discriminator, d.item, d.description, d.charge], chr(31)) as item_key,
        coalesce(d.quantity, 0) * div(billing.exact_scale(), d.scale) as parts,
        coalesce(d.quantity, 0) * div(billing.exact_scale(), d.scale) * coalesce(r.unit_price, 0) as worth
    from day_of as d
    left join billing.rate as r on r.rate_id = d.rate_id
),

frozen as materialized (
    select c.*, coalesce(c.currency, '') as currency_key,
        array_to_string(array[c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge], chr(31)) as item_key
    from billing.closed_line as c
    join billing.close as h using (link)
    where c.kind = 'adjustment' and c.adjusts_period = adjustment.adjusts_period and billing.closed_link(h.period) = c.link
),

live_line as materialized (
    select * from billing.computed_statement(adjustment.adjusts_period, 'infinity')
),

amount_of as (
    select s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, s.amount
    from live_line as s
    where s.amount is not null
    union all
    select s.source, s.customer_id, s.account, s.subscription_number, s.discriminator, s.item, s.description, s.charge, s.is_waiver, s.currency, -s.amount
    from live_line as s
    where s.amount is not null and (select link from base) is null
    union all
    select c.source, c.customer_id, c.account, c.subscription_number, c.discriminator, c.item, c.description, c.charge, c.is_waiver, c.currency, -c.amount
    from billing.closed_line as c
    where c.kind = 'statement' and c.link = (select link from base) and c.amount is not null
    union all
    select f.source, f.customer_id, f.account, f.subscription_number, f.discriminator, f.item, f.description, f.charge, f.is_waiver, f.currency, -f.amount
    from frozen as f
    where f.amount is not null
),

-- What is still to be adjusted of each line: to the last minor unit.
total as materialized (
    select
        array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)) as item_key,
        is_waiver, currency, sum(amount) as amount
    from amount_of
    group by 1, 2, 3
),

delta as materialized (
    select
        x.item_key, x.is_waiver, x.currency, x.day, sum(x.parts) as parts, sum(x.worth) as worth,
        -- As things are now against what the month shows, without what was adjusted in closed months.
        coalesce(sum(x.parts) filter (where not x.is_frozen), 0) as fresh_parts,
        coalesce(sum(x.worth) filter (where not x.is_frozen), 0) as fresh_worth,
        max(x.price_known_since) as price_known_since
    from (
        select v.item_key, v.is_waiver, v.currency, v.day, case when v.is_live then v.parts else -v.parts end as parts,
            case when v.is_live then v.worth else -v.worth end as worth, false as is_frozen,
            case when v.is_live then v.price_known_since else v.price_superseded_at end as price_known_since
        from valued as v
        union all
        select f.item_key, f.is_waiver, f.currency_key, f.usage_date, -f.parts, -f.worth, true, null
        from frozen as f
    ) as x
    group by x.item_key, x.is_waiver, x.currency, x.day
),

-- The days that changed; where only the rounding of a line did, its last day.
changed as materialized (
    select d.item_key, d.is_waiver, d.currency, d.day, d.parts, d.worth, d.fresh_parts, d.fresh_worth, d.price_known_since, coalesce(t.amount, 0) as total
    from (
        select d.*,
            bool_or(d.parts <> 0 or d.worth <> 0) over (partition by d.item_key, d.is_waiver, d.currency) as is_any,
            d.day = max(d.day) over (partition by d.item_key, d.is_waiver, d.currency) as is_last
        from delta as d
    ) as d
    left join total as t using (item_key, is_waiver, currency)
    where d.parts <> 0 or d.worth <> 0 or not d.is_any and d.is_last and coalesce(t.amount, 0) <> 0
),

-- An amount is shared by cumulative rounding: the shares add up to it, and each is the day's own but for one minor unit.
summed as materialized (
    select c.*,
        case
            when lead(c.day) over w is null then c.total
            else billing.divide_rounded(sum(c.worth) over w, billing.exact_scale(), billing.currency_minor_units(c.currency))
        end as until_day
    from changed as c
    window w as (partition by c.item_key, c.is_waiver, c.currency order by c.day)
),

shared as materialized (
    select s.*, s.until_day - lag(s.until_day, 1, 0::numeric) over (partition by s.item_key, s.is_waiver, s.currency order by s.day) as amount
    from summed as s
),

-- Both sides of a day, to tell why.
side as materialized (
    select
        v.item_key, v.day,
        coalesce(sum(v.parts) filter (where v.is_live), 0) as live_parts,
        coalesce(sum(v.parts) filter (where not v.is_live), 0) as base_parts,
        coalesce(sum(v.parts) filter (where v.is_live and v.is_waiver), 0) as live_waiver_parts,
        coalesce(sum(v.parts) filter (where not v.is_live and v.is_waiver), 0) as base_waiver_parts,
        bool_or(v.is_live) as is_in_live,
        bool_or(not v.is_live) as is_in_base,
        coalesce(bool_or(v.basis in ('missing', 'estimated')) filter (where not v.is_live), false) as was_missing,
        coalesce(bool_or(v.basis in ('dropped', 'absent_kept')), false) as is_decided,
        array_agg(distinct v.basis) filter (where v.is_live) is distinct from array_agg(distinct v.basis) filter (where not v.is_live) as is_basis_changed,
        max(v.known_since) filter (where v.is_live) as known_since
    from valued as v
    where (v.item_key, v.day) in (select c.item_key, c.day from changed as c)
    group by v.item_key, v.day
),

named as materialized (
    select distinct on (n.item_key) n.*
    from (
        select v.item_key, v.source, v.customer_id, v.account, v.subscription_number, v.discriminator, v.item, v.description, v.charge from valued as v
        union all
        select f.item_key, f.source, f.customer_id, f.account, f.subscription_number, f.discriminator, f.item, f.description, f.charge from frozen as f
    ) as n
    order by n.item_key
),

unit_of as (
    select distinct on (item_key) item_key, unit
    from (
        select array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)) as item_key, unit from live_line
        union all
        select array_to_string(array[source, customer_id, account, subscription_number, discriminator, item, description, charge], chr(31)), unit
        from billing.closed_line as c
        where c.link = (select link from base)
        union all
        select item_key, unit from frozen
    ) as u
    order by item_key, unit
),

told as materialized (
    select s.*, n.source, n.customer_id, n.account, n.subscription_number, n.discriminator, n.item, n.description, n.charge, w.known_since as day_known_since,
        a.known_since as absence_known_since, p.known_since as calendar_known_since, q.known_since as decision_known_since, k.is_late,
        case
            when base.link is null or s.fresh_parts = 0 and s.fresh_worth = 0 and (s.parts <> 0 or s.worth <> 0) then 'reopened'
            when w.live_parts = w.base_parts and w.live_waiver_parts <> w.base_waiver_parts then 'terms_changed'
            when w.live_parts = w.base_parts then 'rate_changed'
            when not (w.is_in_live and w.is_in_base) and p.known_since is not null then 'calendar_changed'
            when not w.is_in_live then 'terms_changed'
            when w.is_basis_changed and w.is_decided then 'absent'
            when not w.is_in_base or w.was_missing then 'late'
            when q.known_since is not null then case n.charge when 'license' then 'rule_changed' else 'accrued_reading_changed' end
            when k.is_late then 'late'
            else 'restated'
        end as reason
    from shared as s
    cross join base
    join named as n using (item_key)
    left join side as w using (item_key, day)
    left join lateral (
        select max(greatest(p.known_since, p.superseded_at)) as known_since
        from billing.period as p
        where p.customer_id = n.customer_id and p.subscription_number = n.subscription_number and p.clock = n.charge
            and greatest(p.known_since, p.superseded_at) > base.at
    ) as p on true
    left join lateral (
        select max(greatest(a.known_since, a.superseded_at)) as known_since
        from billing.absence as a
        where a.customer_id = n.customer_id and a.subscription_number = n.subscription_number and a.service_level = n.item
            and s.day >= a.first_day and s.day <= a.last_day
    ) as a on true
    left join lateral (
        select max(x.known_since) as known_since
        from (
            select d.known_since
            from billing.accrued_decision as d
            where n.charge = 'burst' and d.account = n.account and d.month = date_trunc('month', s.day::timestamp)::date and d.known_since > base.at
            union all
            select d.known_since
            from billing.product_rule as d
            where n.charge = 'license' and d.product = n.item and d.known_since > base.at
        ) as x
    ) as q on true
    left join lateral (
        select bool_and(r.kind = 'late') as is_late
        from dw.dim_customer as c
        join dw.dim_subscription as b using (customer_key)
        join dw.dim_service_level as l using (customer_key, subscription_key)
        join dw.restatement as r using (customer_key, service_level_key)
        where c.customer_id = n.customer_id and b.subscription_number = n.subscription_number and b.discriminator = n.discriminator
            and l.service_level = n.item and r.usage_date = s.day and r.known_until > base.at
    ) as k on true
)

select
    t.source, t.customer_id, t.account, t.subscription_number, t.discriminator, t.item, t.description, t.charge, t.is_waiver, u.unit, t.day,
    trim_scale(billing.divide_rounded(t.parts, billing.exact_scale(), 12)),
    case when t.currency <> '' then t.amount end, nullif(t.currency, ''), t.reason,
    case t.reason
        when 'reopened' then (select at from base)
        when 'rate_changed' then t.price_known_since
        when 'calendar_changed' then t.calendar_known_since
        when 'absent' then coalesce(t.absence_known_since, t.day_known_since)
        when 'accrued_reading_changed' then t.decision_known_since
        when 'rule_changed' then t.decision_known_since
        else t.day_known_since
    end,
    t.parts, t.worth
from told as t
left join unit_of as u using (item_key)
$$;
-- +goose StatementEnd
comment on function billing.adjustment(text) is 'What is still to be adjusted of a closed month: its figures as of now, less the closed ones, less what closed months adjusted already. Columns as in mart.adjustment; parts and worth are the exact quantity and amount times billing.exact_scale().';

-- +goose StatementBegin
create function billing.adjusted_months() returns table (period text)
language sql stable security definer
set search_path = pg_catalog
as $$
    select c.period
    from (select distinct on (c.period) c.period, c.kind from billing.chain as c order by c.period, c.link desc) as c
    where c.kind = 'close'
    union
    select l.adjusts_period
    from billing.closed_line as l
    join billing.close as h using (link)
    where l.kind = 'adjustment' and billing.closed_link(h.period) = l.link
$$;
-- +goose StatementEnd
comment on function billing.adjusted_months() is 'Months that can have something to adjust: the closed ones, and those that a closed month adjusts.';

-- +goose StatementBegin
create function billing.frozen_adjustment()
returns table (
    period text, adjusts_period text, source text, customer_id text, account text, subscription_number text, item text, charge text,
    quantity numeric, amount numeric, currency text, reason text, known_since timestamptz, usage_date date, discriminator text,
    description text, is_waiver boolean, unit text, state text
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select
        h.period, l.adjusts_period, l.source, l.customer_id, l.account, l.subscription_number, l.item, l.charge,
        l.quantity, l.amount, l.currency, l.reason, l.known_since, l.usage_date, l.discriminator, l.description, l.is_waiver, l.unit, 'closed'
    from billing.closed_line as l
    join billing.close as h using (link)
    where l.kind = 'adjustment' and billing.closed_link(h.period) = l.link
$$;
-- +goose StatementEnd
comment on function billing.frozen_adjustment() is 'The adjustments that were frozen with closed months. Columns as in mart.adjustment.';

create view mart.adjustment as
select
    f.period, f.adjusts_period, f.source, f.customer_id, f.account, f.subscription_number, f.item, f.charge, f.quantity, f.amount, f.currency,
    f.reason, f.known_since, f.usage_date, f.discriminator, f.description, f.is_waiver, f.unit, f.state
from billing.frozen_adjustment() as f
union all
select
    open.period, m.period, a.source, a.customer_id, a.account, a.subscription_number, a.item, a.charge, a.quantity, a.amount, a.currency,
    a.reason, a.known_since, a.usage_date, a.discriminator, a.description, a.is_waiver, a.unit, 'open'
from (select billing.open_period() as period) as open
cross join lateral billing.adjusted_months() as m
cross join lateral billing.adjustment(m.period) as a
where open.period is not null;
comment on view mart.adjustment is 'Grain: one row per line and day of a closed month that changed since it was closed. The closed statement and its adjustments add up to the figures of now, to the last minor unit. Filter period or adjusts_period: each closed month is computed.';
comment on column mart.adjustment.period is 'Month in which it is adjusted: the one with which it was closed, else the month after the last closed one.';
comment on column mart.adjustment.adjusts_period is 'Closed month that changed.';
comment on column mart.adjustment.source is 'As in mart.statement.';
comment on column mart.adjustment.customer_id is 'As in mart.statement.';
comment on column mart.adjustment.account is 'As in mart.statement.';
comment on column mart.adjustment.subscription_number is 'As in mart.statement.';
comment on column mart.adjustment.item is 'As in mart.statement.';
comment on column mart.adjustment.charge is 'As in mart.statement.';
comment on column mart.adjustment.quantity is 'What is to be added to the quantity, in the unit, 12 decimals at most.';
comment on column mart.adjustment.amount is 'What is to be added to the amount, in minor units of the currency; NULL without a price.';
comment on column mart.adjustment.currency is 'ISO 4217 code; NULL without a price. Never sum across currencies.';
comment on column mart.adjustment.reason is 'restated (the vendor told other figures), late (figures came that were missing, or samples were added), absent (a decision about absent days), rate_changed (price or currency), calendar_changed (billing periods), terms_changed (waiver or end of the subscription), accrued_reading_changed, rule_changed (of a wolkvox product) or reopened (it was adjusted, and the month was reopened since).';
comment on column mart.adjustment.known_since is 'Business clock since when it is known; NULL when that cannot be told.';
comment on column mart.adjustment.usage_date is 'The day that changed.';
comment on column mart.adjustment.discriminator is 'As in mart.statement.';
comment on column mart.adjustment.description is 'As in mart.statement.';
comment on column mart.adjustment.is_waiver is 'As in mart.statement.';
comment on column mart.adjustment.unit is 'As in mart.statement.';
comment on column mart.adjustment.state is 'closed (frozen with its period) or open (it may still change, and is frozen when its period is closed).';

-- +goose StatementBegin
create function billing.close_obstacle(period text)
returns table (kind text, about text, remedy text, is_acceptable boolean)
language sql stable security definer
set search_path = pg_catalog
as $$
with clock as materialized (
    select m.first_day, (m.first_day + interval '1 month')::date - 1 as last_day, billing.business_now() as now_at
    from (select (close_obstacle.period || '-01')::date as first_day) as m
),

part as materialized (
    select
        p.*,
        case p.source when 'keystone' then format('%s %s %s', p.customer_id, p.subscription_number, p.item) else format('%s %s %s', p.account, p.item, p.description) end as who
    from billing.statement_part(close_obstacle.period, 'infinity') as p
),

span as (
    select least(clock.first_day, min(p.period_start)) as first_day, clock.last_day
    from clock
    left join part as p on true
    group by clock.first_day, clock.last_day
),

doubt as (
    select p.kind, count(distinct (p.who, p.level_ordinal, p.day)) as days, min(p.who) as example, min(p.day) as first_day, max(p.day) as last_day
    from (
        select p.*, case p.doubt when 'estimated' then 'missing' else p.doubt end as kind
        from part as p
        where p.doubt <> 'not closed' -- told of the licence month
    ) as p
    group by p.kind
)

select 'closed' as kind, format('%s is closed already, version %s', h.period, h.version),
    format('`meterhouse reopen %s --reason R` takes it back', h.period), false
from billing.close as h
where h.link = billing.closed_link(close_obstacle.period)

union all

select 'not_over', format('the month ends on %s and its figures settle after that%s', clock.last_day, coalesce(', such as those of ' || (select min(p.who) from part as p where not p.is_over), '')),
    'close it then', false
from clock
where (clock.last_day + 1)::timestamp at time zone 'UTC' > clock.now_at or exists (select from part as p where not p.is_over)

union all

select 'order', format('%s is open, and months before it are closed', to_char(clock.first_day - interval '1 month', 'YYYY-MM')),
    format('`meterhouse close %s` first', to_char(clock.first_day - interval '1 month', 'YYYY-MM')), true
from clock
where not billing.is_closed(to_char(clock.first_day - interval '1 month', 'YYYY-MM'))
    and exists (select from billing.chain as c where c.period < close_obstacle.period and billing.is_closed(c.period))

union all

select 'empty', 'no line: nothing was loaded for the month', 'load it with `meterhouse backfill`', true
where not exists (select from part)

union all

select
    d.kind,
    format('%s %s, %s to %s, such as of %s', d.days, case d.kind
        when 'missing' then 'days of levels without figures'
        when 'partial' then 'days of levels of which records were refused'
        when 'absent' then 'days of levels that the vendor delivers no more'
        else 'days of levels or products with refused records'
    end, d.first_day, d.last_day, d.example),
    case d.kind
        when 'absent' then 'decide with `meterhouse levels absent`'
        when 'partial' then 'see `meterhouse quarantine list`'
        when 'quarantine' then 'see `meterhouse quarantine list`'
        else 'see `meterhouse report missing_days`, then `meterhouse backfill`; days that never come are dropped with `meterhouse levels absent drop`'
    end,
    true
from doubt as d

union all

select 'quarantine', format('%s of %s refused and not settled, such as %s', case count(*) when 1 then 'one record' else count(*) || ' records' end, q.dataset, min(q.reason)),
    'see `meterhouse quarantine list`', true
from ops.quarantine as q
cross join span
where q.resolved_at is null
    and q.dataset in ('keystone.history', 'wolkvox.billing')
    and coalesce(q.day, q.window_from, '-infinity') <= span.last_day
    and coalesce(q.day, q.window_until - 1, 'infinity') >= span.first_day
group by q.dataset

union all

select 'not_loaded', format('%s customers have no complete history up to the end of the month, such as %s', count(*), min(c.customer_id)),
    'see `meterhouse status`, then `meterhouse run keystone.history`', true
from dw.dim_customer as c
cross join clock
left join ops.watermark as w on w.dataset = 'keystone.history' and w.scope = c.customer_id
where c.absent_since is null
    and (w.expected_from is null or w.expected_from <= clock.last_day)
    and coalesce(w.watermark, '-infinity') < (clock.last_day + 1)::timestamp at time zone 'UTC'
having count(*) > 0

union all

select 'license_month', format('the licence month of %s is %s%s', m.account, m.state, coalesce(': ' || m.reason, '')),
    'ask wolkvox for the figures and load them with `meterhouse readings import`', true
from mart.license_month as m
cross join clock
where m.month = clock.first_day and m.state in ('at_risk', 'lost')
$$;
-- +goose StatementEnd
comment on function billing.close_obstacle(text) is 'What stands against closing a month now, and what to do about it; what is acceptable can be accepted with a reason.';

create index restatement_known_idx on dw.restatement (known_until) where kind <> 'reread';

-- +goose StatementBegin
create function billing.closed_day_changed(since timestamptz)
returns table (period text, customer_id text, account text, changes bigint, first_day date, last_day date, known_since timestamptz, run_id bigint)
language sql stable security definer
set search_path = pg_catalog
set jit = off
as $$
    with closed as materialized (
        select c.link, c.period, c.at
        from (select distinct on (c.period) c.* from billing.chain as c order by c.period, c.link desc) as c
        where c.kind = 'close'
    ),

    change as (
        select c.period, k.customer_id, k.account, r.usage_date as day, r.known_until as known_since, r.run_id
        from dw.restatement as r
        join dw.dim_service_level as l using (customer_key, service_level_key)
        join dw.dim_subscription as s using (customer_key, subscription_key)
        join dw.dim_customer as k using (customer_key)
        join billing.closed_day as d on d.charge = 'committed' and d.customer_id = k.customer_id and d.day = r.usage_date
            and d.subscription_number = s.subscription_number and d.discriminator = s.discriminator and d.item = l.service_level and d.level_ordinal = l.level_ordinal
        join closed as c using (link)
        where r.kind <> 'reread'
            and r.known_until > greatest(closed_day_changed.since, (select min(at) from closed))
            and r.known_until > c.at

        union all

        -- Days that were missing when the month was closed.
        select c.period, k.customer_id, k.account, d.day, f.known_since, f.run_id
        from closed as c
        join billing.closed_day as d on d.link = c.link and d.charge = 'committed' and d.basis in ('missing', 'estimated')
        join dw.dim_customer as k on k.customer_id = d.customer_id
        join dw.dim_subscription as s on s.customer_key = k.customer_key and s.subscription_number = d.subscription_number and s.discriminator = d.discriminator
        join dw.dim_service_level as l on l.customer_key = k.customer_key and l.subscription_key = s.subscription_key
            and l.service_level = d.item and l.level_ordinal = d.level_ordinal
        join dw.fact_daily_consumption as f on f.customer_key = k.customer_key and f.service_level_key = l.service_level_key and f.usage_date = d.day
        where f.known_since > closed_day_changed.since
    )

    select period, customer_id, account, count(*), min(day), max(day), min(known_since), max(run_id)
    from change
    group by period, customer_id, account
$$;
-- +goose StatementEnd
comment on function billing.closed_day_changed(timestamptz) is 'Days of closed months, counted by level instance, of which the vendor told other figures than were closed, known since after the instant. What they come to is in mart.adjustment.';

-- +goose Down
drop function billing.closed_day_changed(timestamptz);
drop index dw.restatement_known_idx;
drop function billing.close_obstacle(text);
drop view mart.adjustment;
drop function billing.frozen_adjustment();
drop function billing.adjusted_months();
drop function billing.adjustment(text);
drop function billing.open_period();
drop function billing.exact_scale();
-- +goose StatementBegin
create or replace function billing.statement(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text, item text,
    charge text, quantity numeric, unit text, unit_price numeric, amount numeric, currency text, state text,
    days_expected integer, days_observed integer, discriminator text, description text, is_waiver boolean, level_class text,
    days_estimated integer, segment_from date, segment_to date, rate_id bigint, note text
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select s.* from billing.computed_statement(statement.period, statement.as_of) as s
$$;
-- +goose StatementEnd
comment on function billing.statement(text, timestamptz) is 'The statement of a month as known at an instant (infinity: now). Columns as in mart.statement.';
-- +goose StatementBegin
create or replace function billing.statement_day(period text, as_of timestamptz)
returns table (
    period text, period_start date, period_end date, source text, customer_id text, account text, subscription_number text,
    discriminator text, item text, level_ordinal integer, description text, charge text, is_waiver boolean, day date,
    quantity numeric, scale integer, basis text, known_since timestamptz, reading numeric, doubt text, rate_id bigint
)
language sql stable security definer
set search_path = pg_catalog
as $$
    select
        p.period, p.period_start, p.period_end, p.source, p.customer_id, p.account, p.subscription_number,
        p.discriminator, p.item, p.level_ordinal, p.description, p.charge, p.is_waiver, p.day,
        p.quantity, p.scale, p.basis, p.known_since, p.reading, p.doubt, p.rate_id
    from billing.statement_part(statement_day.period, statement_day.as_of) as p
    where p.basis <> 'not_due'
$$;
-- +goose StatementEnd
drop function billing.computed_statement_day(text, timestamptz);
create or replace function billing.is_closed(period text) returns boolean
language sql stable
set search_path = pg_catalog
as $$
    select false
$$;
drop function billing.closed_link(text, timestamptz);
drop table billing.closed_day cascade;
drop table billing.closed_line cascade;
drop table billing.reopen cascade;
drop table billing.close cascade;
drop table billing.chain;
drop function billing.extend_chain();
drop function billing.link_hash(bigint);
drop function billing.refuse_change();
drop function billing.seal();
drop function billing.canonical(text[]);
