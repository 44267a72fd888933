"""What messages say: Jinja2 texts that anybody may write and nobody can harm the sender with.

Variables: `first_name`, `last_name` (may be empty), `full_name`, `external_id`, `locale`, `timezone`, `occasion`
(its key), `occasion_name`, `local_date` (a date, like those in `dates`), `dates.NAME`, `attributes.NAME` and
`unsubscribe_url`.

Filters of ours: `age` and `years` (whole years from a date to the message's local date), `ordinal`, `date`,
`number`; and of Jinja's own those in `filters.py`. A filter passes on what is missing, and `default` stands in
for it: `{{ attributes.city | default('your town') }}`. It stands in for an empty text as well. What may be missing
and has no such guard is an error when a text is saved. `{{ first_name }} {{ last_name }}` is the full name: no blank
stays behind where there is no last name.

Limits: no calls, assignments, macros or inclusion; `+ - * / // %` for numbers only, `~` puts texts together;
`if`, and `for` over lists and over `attributes` and `dates`, three deep. Source, nesting, work and output are
bounded (`bounds.py`) by counting, never by time: a text does the same on a slow machine. Filters follow the
recipient's locale, whichever language the text is in, unless they are given one: `{{ n | ordinal('en') }}`.
"""
