/* Whose turn it is on a card.

   Processes take turns of QUANTUM, since only the time of a process that has the card for itself can be measured: where contexts take
   slices of the card, two marks in a stream have the slices of others between them. Nobody gives turns out. Each process says in its
   seat what it has and wants, reads what all others say, and comes to the same answer as they do: first the class, then the container
   whose virtual time is least, then who has waited longest. Virtual time is device time divided by the share that is due: the request,
   and of what active containers leave over a part by weight. Who was idle does not save up virtual time.

   Two may see the card free in the same moment, or one may be slow. That costs exactness, not correctness: the card shares its time
   among whoever has work on it. For the same reason every wait has an end, and nobody is waited for who has overrun its turn by PATIENCE
   (programs that wait for each other on the card would else wait for ever) or has not been heard of for STALE. A higher class does not
   wait for a lower one at all.

   What the others say is theirs, and may be a lie. So each process counts how long every other container has kept it waiting, and how
   long that might have been by what the roster gives it. Who has kept it longer is not waited for until that is made up. */
#include "compute.h"
#include <stddef.h>

#define QUANTUM (10 * MS)
#define PATIENCE (100 * MS)
#define MOST_WAIT (5000 * MS)
#define STALE (200 * MS)
#define TAKEN_SOON (3 * MS) /* who is next takes a free card in this time, else the one after */
#define LEFTOVER (1 * MS)   /* so little work of others hardly counts */
#define AHEAD (20 * MS)     /* of virtual time, that who was idle is put before the others */
#define MOST_LAG (10000 * MS) /* and so far it may be behind them, as after long kernels of theirs; a limit may keep it back for longer */
#define LONG_AGO (5000 * MS)
#define JUST_NOW (100 * MS)
#define GRACE (1000 * MS)     /* somebody may keep us waiting for so much longer than is its part */
#define MOST_SAVED (2000 * MS) /* and for so much more, if it has not before */
#define PPM UINT64_C(1000000)
#define MOST_VIRTUAL (UINT64_C(1) << 62)
#define MOST_LOOK (20 * MS)   /* between two looks; what is longer was not observed */

/* What a container's seats come to. */
struct sum {
    bool active, holds;
    unsigned working;
    uint64_t wanted_ns, held_ns;  /* held_ns: of who has overrun nothing, the longest */
    uint64_t until_ns, last_ns;   /* of who has a turn, and of anybody */
};

static struct tessera_turns_card *own_card(const struct turn *turn)
{
    return &turns_page()->cards[turn->card];
}

static struct tessera_seat *own_seat(const struct turn *turn)
{
    return &own_card(turn)->seats[turn->seat];
}

static bool is_fresh(uint64_t moment, uint64_t now)
{
    return moment && moment <= now + MS && (moment > now || now - moment < STALE);
}

/* A tenant's numbers: a moment to come counts as now. */
static uint64_t before(uint64_t moment, uint64_t now)
{
    return moment < now ? moment : now;
}

static struct sum sum_of(const struct tessera_turns_card *card, int but, uint64_t now)
{
    struct sum sum = {0};
    for (uint64_t left = __atomic_load_n(&card->seats_in_use, __ATOMIC_ACQUIRE); left; left &= left - 1) {
        int place = __builtin_ctzll(left);
        const struct tessera_seat *seat = &card->seats[place];
        if (place == but || !is_fresh(__atomic_load_n(&seat->active_ns, __ATOMIC_RELAXED), now))
            continue;
        uint64_t wanted = __atomic_load_n(&seat->wanted_ns, __ATOMIC_RELAXED), held = __atomic_load_n(&seat->held_ns, __ATOMIC_RELAXED);
        uint64_t until = __atomic_load_n(&seat->until_ns, __ATOMIC_RELAXED), due = before(held, now) + 2 * QUANTUM;
        if (until > due && until < before(held, now) + MOST_WAIT)
            due = until;
        sum.active = true;
        if (wanted && (!sum.wanted_ns || before(wanted, now) < sum.wanted_ns))
            sum.wanted_ns = before(wanted, now);
        sum.holds |= held != 0;
        bool overrun = held && now > due + PATIENCE;
        if (held && !overrun && (!sum.held_ns || before(held, now) < sum.held_ns))
            sum.held_ns = before(held, now);
        sum.working += until > now + LEFTOVER;
        if (held && until > sum.until_ns)
            sum.until_ns = until;
        if (until > sum.last_ns)
            sum.last_ns = until;
    }
    return sum;
}

void turn_begin(struct turn *turn, unsigned card)
{
    *turn = (struct turn){.card = card, .seat = (unsigned)own.place % TESSERA_MOST_SEATS, .share_ppm = PPM};
    __atomic_store_n(&own_seat(turn)->held_ns, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&own_seat(turn)->wanted_ns, 0, __ATOMIC_RELAXED);
}

struct weighing {
    uint64_t requests, weights;
};

static void blocked_by(struct turn *turn, uint64_t since)
{
    if (!turn->blocked || since < turn->blocked_ns)
        turn->blocked_ns = since;
    turn->blocked = true;
}

static void count_work(struct turn *turn, const struct sum *sum)
{
    turn->beside += sum->working;
    if (sum->last_ns > turn->others_last_ns)
        turn->others_last_ns = sum->last_ns;
}

static void take_in(struct turn *turn, const struct sum *sum, uint64_t virtual_ns, struct peer *peer)
{
    if (sum->holds || sum->wanted_ns)
        turn->contended = true;
    if (sum->held_ns)
        blocked_by(turn, sum->held_ns);
    if (sum->holds && sum->until_ns > turn->others_until_ns)
        turn->others_until_ns = sum->until_ns;
    if (!sum->wanted_ns)
        return;
    bool next = !turn->waiting || virtual_ns < turn->waiting_virtual_ns ||
                (virtual_ns == turn->waiting_virtual_ns && sum->wanted_ns < turn->waiting_since_ns);
    turn->waiting = true;
    if (!next)
        return;
    turn->waiting_virtual_ns = virtual_ns;
    turn->waiting_since_ns = sum->wanted_ns;
    turn->waiting_peer = peer;
}

/* So much virtual time ahead of others may be who has had turns of that length: two of them. */
static uint64_t usual_lead(uint64_t turn_ns, uint64_t share_ppm)
{
    return 2 * turn_ns * 1000 / (share_ppm / 1000 ? share_ppm / 1000 : 1);
}

/* Turns leave nobody so far behind who always wants one. So it is somebody who pauses, and finds the card taken each time: a program that
   waits for each of its kernels and computes in between. Its turn comes at once, and meanwhile the others have little on the card. */
static bool is_far_behind(const struct turn *turn, uint64_t virtual_ns)
{
    uint64_t longest = turn->device_ns > turn->last_device_ns ? turn->device_ns : turn->last_device_ns;
    uint64_t lead_ns = usual_lead(longest > QUANTUM ? longest : QUANTUM, turn->share_ppm);
    return __atomic_load_n(&own_card(turn)->virtual_ns, __ATOMIC_RELAXED) > virtual_ns + lead_ns;
}

static void look_at(struct turn *turn, struct peer *peer, uint32_t priority, uint64_t now, uint64_t wanted_ns, bool long_since,
                    struct weighing *all)
{
    struct tessera_turns_card copy;
    peer->active = false;
    if (!peer_copy(peer, &copy))
        return;
    struct sum sum = sum_of(&copy, -1, now);
    if (!sum.active)
        return;
    count_work(turn, &sum);
    all->requests += peer->request;
    all->weights += peer->weight;
    peer->active = true;
    if (peer->kept_ns > peer->allowed_ns + GRACE)
        peer->distrusted = true;
    else if (peer->kept_ns <= peer->allowed_ns)
        peer->distrusted = false;
    if (peer->distrusted)
        return;
    if (sum.held_ns || (sum.wanted_ns && peer->priority > priority))
        peer->kept_ns += long_since ? wanted_ns : 0;
    if (peer->priority < priority) {
        turn->lower_waits |= sum.wanted_ns != 0;
        return;
    }
    if (peer->priority > priority) {
        turn->outranked_ns = now;
        turn->overtaken |= sum.holds || sum.wanted_ns;
        turn->contended |= sum.holds || sum.wanted_ns;
        if (sum.held_ns || sum.wanted_ns)
            blocked_by(turn, 0);
        return;
    }
    uint64_t virtual_ns = copy.virtual_ns < MOST_VIRTUAL ? copy.virtual_ns : MOST_VIRTUAL;
    if (virtual_ns < turn->floor_ns)
        turn->floor_ns = virtual_ns;
    peer->virtual_ns = virtual_ns;
    if (is_far_behind(turn, virtual_ns)) {
        turn->behind_ns = now;
        if (sum.held_ns && !long_since) /* who goes first is to be short; a turn of another's keeps nobody waiting */
            peer->kept_ns += wanted_ns;
        turn->overtaken |= sum.wanted_ns != 0;
    }
    take_in(turn, &sum, virtual_ns, peer);
}

/* What is due of the card, in so many parts of a hundredth: the request, and by weight of what is over. */
static uint64_t part_of(uint64_t request, uint64_t weight, const struct weighing *all, uint64_t parts)
{
    return request * parts + (all->requests < 100 ? 100 - all->requests : 0) * parts * weight / all->weights;
}

/* And what of that is over since others may not use theirs. */
static uint64_t share_of(const struct turn *turn, const struct compute_limits *mine, const struct weighing *all)
{
    uint64_t part = part_of(mine->request, mine->weight, all, PPM / 100), over = 0, weights = mine->weight;
    for (unsigned i = 0; i < turn->roster.count; i++) {
        const struct peer *peer = &turn->roster.peers[i];
        if (peer->own || !peer->active || peer->priority != mine->priority)
            continue;
        uint64_t its = part_of(peer->request, peer->weight, all, PPM / 100), most = peer->limit * (PPM / 100);
        if (its > most)
            over += its - most;
        else
            weights += peer->weight;
    }
    uint64_t share = part + over * mine->weight / (weights ? weights : 1), most = mine->limit * (PPM / 100);
    return share < most ? share : most;
}

/* Whether some other container is so far ahead of us that it lets us go first, and how far they would have to be. */
static void compare(struct turn *turn, const struct compute_limits *mine, const struct weighing *all)
{
    uint64_t own_ns = __atomic_load_n(&own_card(turn)->virtual_ns, __ATOMIC_RELAXED);
    turn->goes_first = false;
    turn->lead_ns = 0;
    for (unsigned i = 0; i < turn->roster.count; i++) {
        const struct peer *peer = &turn->roster.peers[i];
        if (peer->own || !peer->active || peer->distrusted || peer->priority != mine->priority)
            continue;
        uint64_t lead_ns = usual_lead(QUANTUM, part_of(peer->request, peer->weight, all, PPM / 100));
        turn->goes_first |= peer->virtual_ns > own_ns + lead_ns;
        if (lead_ns > turn->lead_ns)
            turn->lead_ns = lead_ns;
    }
}

/* What the others might have kept us waiting for while we had or wanted the card. What some may not use, since they have a limit, may be
   anybody's. */
static void allow(struct turn *turn, const struct compute_limits *mine, const struct weighing *all, uint64_t passed_ns)
{
    uint64_t part = part_of(mine->request, mine->weight, all, 1), over = part > mine->limit ? part - mine->limit : 0;
    for (unsigned i = 0; i < turn->roster.count; i++) {
        const struct peer *peer = &turn->roster.peers[i];
        part = part_of(peer->request, peer->weight, all, 1);
        if (!peer->own && peer->active && part > peer->limit)
            over += part - peer->limit;
    }
    for (unsigned i = 0; i < turn->roster.count; i++) {
        struct peer *peer = &turn->roster.peers[i];
        uint64_t due = part_of(peer->request, peer->weight, all, 1) + over;
        if (peer->own || !peer->active)
            continue;
        if (peer->priority > mine->priority || due > peer->limit)
            due = peer->limit;
        peer->allowed_ns += passed_ns * due / 100;
        if (peer->allowed_ns > peer->kept_ns + MOST_SAVED)
            peer->allowed_ns = peer->kept_ns + MOST_SAVED;
    }
}

/* Nobody is ahead of the others for longer than they may be behind it; what it was lifted by may have been a lie. */
static void come_back(struct turn *turn)
{
    uint64_t *place = &own_card(turn)->virtual_ns, have = __atomic_load_n(place, __ATOMIC_RELAXED);
    uint64_t most = turn->floor_ns == UINT64_MAX ? UINT64_MAX : turn->floor_ns + MOST_LAG;
    while (have > most && !__atomic_compare_exchange_n(place, &have, most, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        ;
}

void turn_look(struct turn *turn, uint64_t now)
{
    uint64_t passed_ns = now > turn->looked_ns && now - turn->looked_ns < MOST_LOOK ? now - turn->looked_ns : 0;
    uint64_t wanted_ns = __atomic_load_n(&own_seat(turn)->wanted_ns, __ATOMIC_RELAXED);
    bool wants = wanted_ns != 0, long_since = wants && now > wanted_ns + 2 * QUANTUM; /* a turn of another's keeps nobody waiting */
    const struct compute_limits mine = limits_compute(turn->card);
    struct weighing all = {mine.request, mine.weight};
    roster_refresh(&turn->roster, turn->card, now);
    turn->shared = turn->roster.count > 1;
    turn->contended = turn->lower_waits = turn->blocked = turn->overtaken = turn->waiting = false;
    turn->others_until_ns = turn->others_last_ns = 0;
    turn->beside = 0;
    turn->waiting_peer = NULL;
    turn->floor_ns = UINT64_MAX;
    for (unsigned i = 0; i < turn->roster.count; i++)
        if (!turn->roster.peers[i].own)
            look_at(turn, &turn->roster.peers[i], mine.priority, now, wants ? passed_ns : 0, long_since, &all);
    /* Processes of one container take turns only where their time must be measured. */
    struct sum sum = sum_of(own_card(turn), (int)turn->seat, now);
    count_work(turn, &sum);
    if (mine.limit < 100 || turn->contended) {
        take_in(turn, &sum, __atomic_load_n(&own_card(turn)->virtual_ns, __ATOMIC_RELAXED), NULL);
    }
    come_back(turn);
    turn->share_ppm = share_of(turn, &mine, &all);
    compare(turn, &mine, &all);
    if (wants && !turn->blocked && turn->waiting_peer) /* it is next, and does not take its turn */
        turn->waiting_peer->kept_ns += passed_ns;
    if (wants || turn->holds)
        allow(turn, &mine, &all, passed_ns);
    turn->looked_ns = now;
    if (turn->blocked || turn->holds)
        turn->free_ns = 0;
    else if (!turn->free_ns)
        turn->free_ns = now;
}

/* Who comes back from idleness begins a little before the others, and saves nothing up; from a pause, so far that it goes first. */
static void catch_up(struct turn *turn)
{
    uint64_t *place = &own_card(turn)->virtual_ns, have = __atomic_load_n(place, __ATOMIC_RELAXED);
    uint64_t lag = !turn->busy ? AHEAD : turn->paused ? AHEAD + 2 * turn->lead_ns : MOST_LAG;
    uint64_t least = turn->floor_ns == UINT64_MAX || turn->floor_ns < lag ? 0 : turn->floor_ns - lag;
    turn->busy = true;
    turn->paused = false;
    while (have < least && !__atomic_compare_exchange_n(place, &have, least, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        ;
}

static bool is_next(const struct turn *turn, uint64_t wanted)
{
    uint64_t mine = __atomic_load_n(&own_card(turn)->virtual_ns, __ATOMIC_RELAXED);
    if (!turn->waiting || mine < turn->waiting_virtual_ns)
        return true;
    return mine == turn->waiting_virtual_ns && wanted <= turn->waiting_since_ns;
}

bool turn_take(struct turn *turn, uint64_t now)
{
    struct tessera_seat *seat = own_seat(turn);
    uint64_t wanted = __atomic_load_n(&seat->wanted_ns, __ATOMIC_RELAXED);
    if (turn->holds)
        return true;
    if (!wanted) {
        catch_up(turn);
        wanted = now;
        __atomic_store_n(&seat->wanted_ns, now, __ATOMIC_RELEASE);
    }
    turn_beat(turn, now, seat->until_ns);
    bool free = !turn->blocked && (is_next(turn, wanted) || (turn->free_ns && now > turn->free_ns + TAKEN_SOON));
    if (!free && now - wanted < MOST_WAIT)
        return false;
    /* Somebody else may have seen the card free as well: the later one gives way. */
    __atomic_store_n(&seat->held_ns, now, __ATOMIC_SEQ_CST);
    turn_look(turn, clock_ns());
    if (free && turn->blocked && turn->blocked_ns <= now) {
        __atomic_store_n(&seat->held_ns, 0, __ATOMIC_RELEASE);
        return false;
    }
    __atomic_store_n(&seat->wanted_ns, 0, __ATOMIC_RELEASE);
    turn->holds = true;
    turn->last_device_ns = turn->device_ns;
    turn->device_ns = 0;
    return true;
}

bool turn_is_over(const struct turn *turn, uint64_t now)
{
    uint64_t held = turn_since(turn);
    if (!turn->holds || turn->overtaken)
        return turn->overtaken;
    if (!turn->waiting || (turn->device_ns < QUANTUM && now - held < 2 * QUANTUM))
        return false;
    return !turn->waiting_peer || turn->waiting_virtual_ns < __atomic_load_n(&own_card(turn)->virtual_ns, __ATOMIC_RELAXED);
}

uint64_t turn_since(const struct turn *turn)
{
    return __atomic_load_n(&own_seat(turn)->held_ns, __ATOMIC_RELAXED);
}

/* Nobody of its class waits: it may as well begin anew. Who does not say so for long is taken to hang. */
void turn_renew(struct turn *turn, uint64_t now)
{
    if (turn->holds && !turn->waiting)
        __atomic_store_n(&own_seat(turn)->held_ns, now, __ATOMIC_RELEASE);
}

void turn_end(struct turn *turn)
{
    struct tessera_seat *seat = own_seat(turn);
    turn->holds = false;
    __atomic_store_n(&seat->wanted_ns, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&seat->held_ns, 0, __ATOMIC_RELEASE);
}

void turn_pause(struct turn *turn)
{
    turn_end(turn);
    turn->paused = true;
}

void turn_used(struct turn *turn, int64_t device_ns)
{
    int64_t virtual_ns = device_ns * 1000 / (int64_t)(turn->share_ppm / 1000 ? turn->share_ppm / 1000 : 1);
    uint64_t *place = &own_card(turn)->virtual_ns, have = __atomic_load_n(place, __ATOMIC_RELAXED), will;
    do { /* what is given back may have been charged at another share */
        will = virtual_ns < 0 && have < (uint64_t)-virtual_ns ? 0 : have + (uint64_t)virtual_ns;
    } while (!__atomic_compare_exchange_n(place, &have, will, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    turn->device_ns = device_ns < 0 && turn->device_ns < (uint64_t)-device_ns ? 0 : turn->device_ns + (uint64_t)device_ns;
}

void turn_beat(struct turn *turn, uint64_t now, uint64_t until)
{
    struct tessera_seat *seat = own_seat(turn);
    __atomic_store_n(&seat->until_ns, until, __ATOMIC_RELAXED);
    __atomic_store_n(&seat->active_ns, now, __ATOMIC_RELEASE);
    if (!(__atomic_load_n(&own_card(turn)->seats_in_use, __ATOMIC_RELAXED) >> turn->seat & 1))
        __atomic_or_fetch(&own_card(turn)->seats_in_use, UINT64_C(1) << turn->seat, __ATOMIC_RELEASE);
}

void turn_leave(struct turn *turn)
{
    turn_end(turn);
    turn->busy = false;
    __atomic_store_n(&own_seat(turn)->active_ns, 0, __ATOMIC_RELEASE);
    __atomic_and_fetch(&own_card(turn)->seats_in_use, ~(UINT64_C(1) << turn->seat), __ATOMIC_RELEASE);
}

bool turn_outranked(const struct turn *turn, uint64_t now)
{
    return turn->outranked_ns && now < turn->outranked_ns + LONG_AGO; /* it may have been seen after `now` */
}

bool turn_lets_pass(const struct turn *turn, uint64_t now)
{
    return turn->behind_ns && now < turn->behind_ns + JUST_NOW;
}

/* Who is next looks often; the others until the present turn may be over. */
uint64_t turn_wait(const struct turn *turn, uint64_t now)
{
    uint64_t left = turn->others_until_ns > now ? turn->others_until_ns - now : 0;
    uint64_t sleep = left / 2 < 100 * US ? 100 * US : left / 2;
    if (!is_next(turn, own_seat(turn)->wanted_ns) && sleep < 500 * US)
        sleep = 500 * US;
    return sleep < MS ? sleep : MS;
}
