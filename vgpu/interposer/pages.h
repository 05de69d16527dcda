/*
 * The files through which the node agent and the processes of a container talk. One definition for both sides:
 * tessera_vgpu/layout.py mirrors it, and a test compares every offset.
 *
 * Limits page: written by the agent, read-only for the container. There are two banks. A reader takes bank[sequence & 1], copies
 * it, and takes it as valid if sequence is still the same and the checksum is right; else it tries again, a bounded number of
 * times. The writer fills the other bank and then adds one to sequence with one aligned 64-bit store, so a writer that is killed
 * at any moment leaves the earlier limits in force, and no reader ever waits for it.
 *
 * Usage page: written by the processes of the container and by nobody else. The container owns it and may write anything into it:
 * the agent copies it with pread, never maps it (a file that is cut short would raise SIGBUS), believes nothing and compares.
 * Slots are never moved. A slot is in use while its generation is odd; taking and freeing it add one each.
 *
 * Turns page: written by the processes of the container, and read by those of every other container that has a part of the same card,
 * which copy it with pread for the same reasons. How turns are taken is in turns.c.
 *
 * Roster: who has a part of a card. Written by the agent, replaced by rename, read-only for containers; what it says of request,
 * limit, weight and class counts, never what a tenant's page says.
 *
 * All numbers are little-endian on every machine that this runs on. Sizes never shrink; a new layout gets a new version.
 */
#ifndef TESSERA_PAGES_H
#define TESSERA_PAGES_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define TESSERA_LIMITS_MAGIC UINT64_C(0x31494c4152455354) /* "TSERALI1" */
#define TESSERA_USAGE_MAGIC UINT64_C(0x3153554152455354)  /* "TSERAUS1" */
#define TESSERA_TURNS_MAGIC UINT64_C(0x3155544152455354)  /* "TSERATU1" */
#define TESSERA_ROSTER_MAGIC UINT64_C(0x314f524152455354) /* "TSERARO1" */
#define TESSERA_PAGES_VERSION 1u

#define TESSERA_MOST_CARDS 16
#define TESSERA_MOST_PROCESSES 512
#define TESSERA_MOST_SEATS 64      /* of a container on a card; further processes share them */
#define TESSERA_MOST_NEIGHBOURS 128 /* containers on a card */
#define TESSERA_UUID_BYTES 96 /* as NVML_DEVICE_UUID_V2_BUFFER_SIZE */
#define TESSERA_NAME_BYTES 64

/* How a container sees its cards. */
enum tessera_mode {
    TESSERA_MODE_CARDS = 0,     /* each of its cards with its own limits */
    TESSERA_MODE_ONE_DEVICE = 1 /* one device; its processes are placed on the cards in proportion */
};

struct tessera_card_limits {
    char uuid[TESSERA_UUID_BYTES]; /* NUL-terminated */
    uint64_t memory_limit_bytes;
    uint64_t context_bytes;           /* what the context of one process costs on this card; not part of the limit */
    uint32_t compute_request_centi;   /* guaranteed, 1 to 100 */
    uint32_t compute_limit_centi;     /* cap, request <= limit <= 100 */
    uint32_t weight;                  /* of this container when idle time is divided, at least 1 */
    uint32_t reserved;
};

struct tessera_limits_bank {
    uint64_t generation; /* one more with each change */
    uint32_t checksum;   /* CRC-32 (IEEE 802.3) of this bank with this field zero */
    uint32_t card_count;
    uint32_t priority_class; /* larger is more important */
    uint32_t mode;           /* enum tessera_mode */
    uint32_t most_processes; /* that may hold a context */
    uint32_t reserved;
    char pod_uid[TESSERA_NAME_BYTES];
    char container[TESSERA_NAME_BYTES];
    struct tessera_card_limits cards[TESSERA_MOST_CARDS];
};

struct tessera_limits_page {
    uint64_t magic;
    uint32_t version;
    uint32_t size; /* of this structure */
    uint64_t sequence;
    uint64_t reserved;
    struct tessera_limits_bank bank[2];
};

/* What all processes together hold of one card, a cache line. */
struct tessera_card_usage {
    uint64_t reserved_bytes;         /* never above the limit */
    uint64_t retired_device_time_ns; /* of processes that ended, so that totals never fall */
    uint64_t retired_waiting_ns;
    uint64_t retired_throttled_ns;
    uint64_t reserved[4];
};

/* What one process holds of one card. */
struct tessera_ledger {
    uint64_t bytes;
    uint64_t device_time_ns; /* that its work took */
    uint64_t waiting_ns;     /* that it waited for others */
    uint64_t throttled_ns;   /* that it waited because of its own limit */
};

struct tessera_process_slot {
    uint64_t generation; /* odd: in use */
    uint32_t pid;        /* in the container's name space */
    uint32_t placed;     /* 1 + place of the card that it has, where the container sees one device; else 0 */
    uint64_t pid_start_ticks; /* field 22 of /proc/PID/stat */
    uint64_t pending_bytes;   /* of the ledgers, what is reserved for calls to the driver that have not returned */
    uint64_t contexts;        /* bit per card: the process has a context there */
    uint64_t reserved[3];
    struct tessera_ledger ledger[TESSERA_MOST_CARDS];
};

struct tessera_usage_page {
    uint64_t magic;
    uint32_t version;
    uint32_t size; /* of this structure */
    uint64_t limits_generation; /* that the processes last applied */
    uint64_t writer; /* who changes sums and ledgers: 0 nobody, else place of its slot + 1, and 32 bits of its generation above */
    uint64_t reserved[4];
    struct tessera_card_usage cards[TESSERA_MOST_CARDS];
    struct tessera_process_slot slots[TESSERA_MOST_PROCESSES];
};

/* A process on a card. Times are CLOCK_MONOTONIC in ns; 0: not so. */
struct tessera_seat {
    uint64_t active_ns; /* when it last looked, while it has work or wants some */
    uint64_t wanted_ns; /* since when it waits for its turn */
    uint64_t held_ns;   /* since when it has its turn */
    uint64_t until_ns;  /* when what it has put on the card will be done, as far as it knows */
    uint64_t reserved[4];
};

/* One card of a container. */
struct tessera_turns_card {
    uint64_t virtual_ns;  /* device time, each nanosecond divided by the share of the card that was due then */
    uint64_t refilled_ns; /* when tokens were last given */
    int64_t tokens_ns;    /* device time that the limit allows at once; negative: a debt */
    uint64_t seats_in_use;
    uint64_t reserved[4];
    struct tessera_seat seats[TESSERA_MOST_SEATS];
};

struct tessera_turns_page {
    uint64_t magic;
    uint32_t version;
    uint32_t size; /* of this structure */
    uint64_t reserved[6];
    struct tessera_turns_card cards[TESSERA_MOST_CARDS]; /* in the order of its limits page */
};

/* A container that has a part of the card. */
struct tessera_neighbour {
    char page[TESSERA_NAME_BYTES]; /* file name of its turns page, beside the roster */
    uint32_t place;                /* of the card in that page */
    uint32_t compute_request_centi;
    uint32_t compute_limit_centi;
    uint32_t weight;
    uint32_t priority_class;
    uint32_t reserved[3];
};

struct tessera_roster {
    uint64_t magic;
    uint32_t version;
    uint32_t size; /* of this structure */
    uint32_t count;
    uint32_t reserved[3];
    struct tessera_neighbour neighbours[TESSERA_MOST_NEIGHBOURS];
};

static_assert(sizeof(struct tessera_card_limits) == 128, "card limits");
static_assert(sizeof(struct tessera_limits_bank) == 2208, "limits bank");
static_assert(sizeof(struct tessera_limits_page) == 4448, "limits page");
static_assert(offsetof(struct tessera_limits_page, sequence) % 8 == 0, "sequence is stored at once");
static_assert(offsetof(struct tessera_limits_page, bank) == 32, "banks");
static_assert(sizeof(struct tessera_card_usage) == 64, "a cache line");
static_assert(sizeof(struct tessera_ledger) == 32, "ledger");
static_assert(sizeof(struct tessera_process_slot) == 576, "whole cache lines");
static_assert(offsetof(struct tessera_usage_page, slots) % 64 == 0, "slots begin at a cache line");
static_assert(sizeof(struct tessera_seat) == 64, "a cache line");
static_assert(sizeof(struct tessera_turns_card) == 64 + 64 * 64, "whole cache lines");
static_assert(sizeof(struct tessera_turns_page) == 64 + 16 * 4160, "turns page");
static_assert(sizeof(struct tessera_neighbour) == 96, "neighbour");
static_assert(sizeof(struct tessera_roster) == 32 + 128 * 96, "roster");
static_assert(sizeof(struct tessera_usage_page) == 64 + 1024 + 512 * 576, "usage page");

#endif
