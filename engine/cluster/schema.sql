-- What nodes agree on. Each row belongs to an archive, so that several archives may use one database.
-- Numbers u64 (segment ids, salts) are stored as bigint with the same 64 bits.
--
-- A refusal has a SQLSTATE of its own (engine/cluster/database.py makes errors of them):
--   FR001  an old epoch, or a sealed chain       FR002  not the number that follows; DETAIL: the last number
--   FR003  groups that are no longer here; DETAIL: the last of them
--   FR004  a lease that is lost                  FR005  anything else that is not allowed; the message says what

create schema filmroom;

create table filmroom.version (
    is_only boolean primary key default true check (is_only),
    number int not null,
    oldest_reader int not null
);

create table filmroom.archives (
    archive uuid primary key,
    next_slot int not null default 1,
    created timestamptz not null default now()
);

create table filmroom.nodes (
    archive uuid not null references filmroom.archives,
    slot int not null check (slot between 0 and 65533),
    name text not null,
    address text not null,
    software text not null,
    state text not null check (state in ('active', 'draining', 'left', 'lost', 'removed')),
    until timestamptz not null,
    joined timestamptz not null default now(),
    taken_by int,
    applied jsonb not null default '{}',
    clock_offset_s double precision,
    primary key (archive, slot)
) with (fillfactor = 50);
create unique index nodes_name on filmroom.nodes (archive, name) where state in ('active', 'draining');

-- The barrier: one small row a node, which changes with each group.
create table filmroom.chains (
    archive uuid not null,
    slot int not null,
    epoch bigint not null,
    number bigint not null default 0,
    trimmed bigint not null default 0,
    is_sealed boolean not null default false,
    primary key (archive, slot),
    foreign key (archive, slot) references filmroom.nodes
) with (fillfactor = 20);

create table filmroom.feed (
    archive uuid not null,
    slot int not null,
    number bigint not null,
    segment bigint not null,
    salt bigint not null,
    start_offset bigint not null,
    end_offset bigint not null,
    is_sealed boolean not null,
    record_count int not null,
    heads bytea not null,
    primary key (archive, slot, number),
    foreign key (archive, slot) references filmroom.chains
);

create sequence filmroom.lease_epochs;

create table filmroom.leases (
    archive uuid not null references filmroom.archives,
    name text not null,
    epoch bigint not null,
    holder text not null,
    until timestamptz not null,
    primary key (archive, name)
);

create function filmroom.refuse(code text, message text, detail text default '') returns void language plpgsql as $$
begin
    raise exception using errcode = code, message = message, detail = detail;
end $$;

-- Why a chain takes nothing from this epoch; never returns.
create function filmroom.refuse_chain(a uuid, s int, e bigint) returns void language plpgsql as $$
declare
    c filmroom.chains;
begin
    select * into c from filmroom.chains where archive = a and slot = s;
    if not found then
        perform filmroom.refuse('FR005', format('there is no node of slot %s', s));
    elsif c.epoch <> e then
        perform filmroom.refuse('FR001', format('slot %s is in epoch %s: what epoch %s writes is too late', s, c.epoch, e));
    elsif c.is_sealed then
        perform filmroom.refuse('FR001', format('the chain of slot %s is sealed', s));
    end if;
    perform filmroom.refuse('FR002', format('the chain of slot %s ends at %s', s, c.number), c.number::text);
end $$;

create function filmroom.chain_append(
    a uuid, s int, e bigint, n bigint, segment bigint, salt bigint, start_offset bigint, end_offset bigint,
    seals boolean, record_count int, heads bytea
) returns void language plpgsql as $$
begin
    update filmroom.chains set number = n
        where archive = a and slot = s and epoch = e and number = n - 1 and not is_sealed;
    if not found then
        perform filmroom.refuse_chain(a, s, e);
    end if;
    insert into filmroom.feed values (a, s, n, segment, salt, start_offset, end_offset, seals, record_count, heads);
end $$;

-- No group follows in this chain: an epoch that has taken it over says so, or its own node when it leaves.
create function filmroom.chain_seal(a uuid, s int, e bigint) returns bigint language plpgsql as $$
declare
    last bigint;
begin
    update filmroom.chains set is_sealed = true where archive = a and slot = s and epoch = e returning number into last;
    if not found then
        perform filmroom.refuse_chain(a, s, e);
    end if;
    return last;
end $$;

-- Forgets groups that every node has applied and whose segments are all sealed; at most `most` of them.
-- Returns the number of the last group that is gone.
create function filmroom.chain_trim(a uuid, s int, most int) returns bigint language plpgsql as $$
declare
    c filmroom.chains;
    target bigint;
begin
    select * into c from filmroom.chains where archive = a and slot = s for update;
    if not found then
        perform filmroom.refuse('FR005', format('there is no node of slot %s', s));
    end if;
    select min(coalesce((applied ->> s::text)::bigint, 0)) into target
        from filmroom.nodes where archive = a and state in ('active', 'draining') and slot <> s;
    target := least(coalesce(target, c.number), c.number, c.trimmed + most);
    -- The first group of a segment that still grows stays, and all behind it.
    select least(target, min(g.number) - 1) into target from filmroom.feed g
        where g.archive = a and g.slot = s and g.number <= target and not exists (
            select from filmroom.feed f where f.archive = a and f.slot = s and f.segment = g.segment and f.is_sealed);
    if target > c.trimmed then
        delete from filmroom.feed where archive = a and slot = s and number <= target;
        update filmroom.chains set trimmed = target where archive = a and slot = s;
    end if;
    return greatest(target, c.trimmed);
end $$;

create function filmroom.term(seconds double precision) returns timestamptz language sql as $$
    select clock_timestamp() + make_interval(secs => seconds)
$$;

create function filmroom.node_join(
    a uuid, its_name text, its_address text, its_software text, term_s double precision, wanted int,
    out its_slot int, out its_epoch bigint
) language plpgsql as $$
declare
    holder filmroom.nodes;
    place filmroom.archives;
begin
    insert into filmroom.archives (archive) values (a) on conflict do nothing;
    select * into place from filmroom.archives where archive = a for update;
    select * into holder from filmroom.nodes where archive = a and name = its_name and state in ('active', 'draining');
    if found then
        perform filmroom.refuse('FR005', format('there is a node %s already, with slot %s', its_name, holder.slot));
    end if;
    its_slot := coalesce(wanted, place.next_slot);
    if its_slot > 65533 then
        perform filmroom.refuse('FR005', 'this archive has had as many nodes as it can have');
    elsif exists (select from filmroom.nodes where archive = a and slot = its_slot) then
        perform filmroom.refuse('FR005', format('slot %s has been given', its_slot));
    end if;
    update filmroom.archives set next_slot = greatest(next_slot, its_slot + 1) where archive = a;
    its_epoch := 1;
    insert into filmroom.nodes (archive, slot, name, address, software, state, until)
        values (a, its_slot, its_name, its_address, its_software, 'active', filmroom.term(term_s));
    insert into filmroom.chains (archive, slot, epoch) values (a, its_slot, its_epoch);
end $$;

-- The node of a slot again, after a restart: what its last process still writes is refused from now on.
create function filmroom.node_rejoin(
    a uuid, s int, its_name text, its_address text, its_software text, term_s double precision,
    out its_epoch bigint, out its_number bigint
) language plpgsql as $$
declare
    holder filmroom.nodes;
begin
    select * into holder from filmroom.nodes where archive = a and slot = s for update;
    if not found then
        perform filmroom.refuse('FR005', format('there is no node of slot %s', s));
    elsif holder.state not in ('active', 'draining') then
        perform filmroom.refuse('FR001', format('the node of slot %s is %s: it needs a new slot', s, holder.state));
    elsif holder.name <> its_name then
        perform filmroom.refuse('FR005', format('slot %s is that of the node %s', s, holder.name));
    elsif holder.address <> its_address and holder.until > clock_timestamp() then
        perform filmroom.refuse('FR005', format('the node %s runs at %s', its_name, holder.address));
    end if;
    update filmroom.chains set epoch = epoch + 1 where archive = a and slot = s and not is_sealed
        returning epoch, number into its_epoch, its_number;
    if not found then
        perform filmroom.refuse('FR001', format('the chain of slot %s is sealed: its node needs a new slot', s));
    end if;
    update filmroom.nodes set address = its_address, software = its_software, until = filmroom.term(term_s)
        where archive = a and slot = s;
end $$;

create function filmroom.node_heartbeat(
    a uuid, s int, e bigint, term_s double precision, what_is_applied jsonb, offset_s double precision,
    out its_state text, out at double precision
) language plpgsql as $$
begin
    update filmroom.nodes n set until = filmroom.term(term_s), applied = what_is_applied, clock_offset_s = offset_s
        from filmroom.chains c
        where n.archive = a and n.slot = s and n.state in ('active', 'draining')
            and c.archive = a and c.slot = s and c.epoch = e and not c.is_sealed
        returning n.state into its_state;
    if not found then
        if exists (select from filmroom.nodes where archive = a and slot = s and state not in ('active', 'draining')) then
            perform filmroom.refuse('FR001', format('the node of slot %s was taken over, has left or was removed', s));
        end if;
        perform filmroom.refuse_chain(a, s, e);
    end if;
    at := extract(epoch from clock_timestamp());
end $$;

-- Another node continues what a node has begun, once its lease is over: a higher epoch, and it is lost.
create function filmroom.node_take_over(a uuid, s int, taker int, out its_epoch bigint, out its_number bigint)
language plpgsql as $$
declare
    holder filmroom.nodes;
begin
    select * into holder from filmroom.nodes where archive = a and slot = s for update;
    if not found then
        perform filmroom.refuse('FR005', format('there is no node of slot %s', s));
    elsif holder.state not in ('active', 'draining', 'lost') then
        perform filmroom.refuse('FR005', format('the node %s is %s', holder.name, holder.state));
    elsif holder.until > clock_timestamp() then
        perform filmroom.refuse('FR005', format('the node %s is alive', holder.name));
    elsif holder.state = 'lost' and holder.taken_by <> taker and exists (
            select from filmroom.nodes where archive = a and slot = holder.taken_by
                and state in ('active', 'draining') and until > clock_timestamp()) then
        perform filmroom.refuse('FR005', format('the node of slot %s takes over already', holder.taken_by));
    end if;
    update filmroom.chains set epoch = epoch + 1 where archive = a and slot = s and not is_sealed
        returning epoch, number into its_epoch, its_number;
    if not found then
        perform filmroom.refuse('FR005', format('the chain of slot %s is sealed already', s));
    end if;
    update filmroom.nodes set state = 'lost', taken_by = taker where archive = a and slot = s;
end $$;

create function filmroom.node_state(a uuid, s int, wanted text) returns void language plpgsql as $$
declare
    holder filmroom.nodes;
    c filmroom.chains;
begin
    select * into holder from filmroom.nodes where archive = a and slot = s for update;
    select * into c from filmroom.chains where archive = a and slot = s for update;
    if holder.slot is null then
        perform filmroom.refuse('FR005', format('there is no node of slot %s', s));
    elsif holder.state = wanted then
        return;
    elsif wanted in ('active', 'draining') and holder.state not in ('active', 'draining') then
        perform filmroom.refuse('FR005', format('the node %s is %s', holder.name, holder.state));
    elsif wanted in ('left', 'removed') and not c.is_sealed then
        perform filmroom.refuse('FR005', format('the chain of the node %s is not sealed', holder.name));
    elsif wanted = 'removed' and holder.until > clock_timestamp() then
        perform filmroom.refuse('FR005', format('the node %s is alive: drain it first', holder.name));
    elsif wanted = 'left' and holder.state <> 'draining' then
        perform filmroom.refuse('FR005', format('the node %s is %s: only one that is drained leaves', holder.name, holder.state));
    end if;
    update filmroom.nodes set state = wanted, until = case when wanted = 'left' then clock_timestamp() else until end
        where archive = a and slot = s;
end $$;

-- The epoch of the grant; null: somebody has the lease.
create function filmroom.lease_acquire(a uuid, its_name text, its_holder text, term_s double precision)
returns bigint language plpgsql as $$
declare
    granted bigint;
begin
    insert into filmroom.leases as l values
        (a, its_name, nextval('filmroom.lease_epochs'), its_holder, filmroom.term(term_s))
        on conflict (archive, name) do update
            set epoch = excluded.epoch, holder = excluded.holder, until = excluded.until
            where l.until <= clock_timestamp()
        returning epoch into granted;
    return granted;
end $$;
