-- What prices and the billing calendar need besides their tables. New functions and triggers on new
-- tables: locks nothing; nothing to replay.

-- +goose Up
create function billing.currency_minor_units(currency text) returns integer
language sql immutable parallel safe
as $$
    select case
        when currency in ('BIF', 'CLP', 'DJF', 'GNF', 'ISK', 'JPY', 'KMF', 'KRW', 'PYG', 'RWF', 'UGX', 'UYI', 'VND', 'VUV', 'XAF', 'XOF', 'XPF') then 0
        when currency in ('BHD', 'IQD', 'JOD', 'KWD', 'LYD', 'OMR', 'TND') then 3
        when currency in ('CLF', 'UYW') then 4
        else 2
    end
$$;
comment on function billing.currency_minor_units(text) is 'Decimals of the smallest unit of a currency by ISO 4217; 2 for a code that the standard does not know.';

-- +goose Down
drop function billing.currency_minor_units(text);
