/* The limits page: read as pages.h says, checked before it is believed, and read again when its sequence has moved. A page that is
   damaged later leaves the limits in force that were read last. */
#define _GNU_SOURCE
#include "slice.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TRIES 200
#define MOST_BYTES (UINT64_C(1) << 62)

static const struct tessera_limits_page *page;
static struct tessera_limits_bank current;
static uint64_t seen;
static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

void limits_after_fork(void)
{
    pthread_mutex_init(&reading, NULL);
}

static uint32_t checksum_of(const struct tessera_limits_bank *bank)
{
    struct tessera_limits_bank copy = *bank;
    const unsigned char *bytes = (const unsigned char *)&copy;
    uint32_t crc = 0xffffffffu;
    copy.checksum = 0;
    for (size_t i = 0; i < sizeof copy; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ (0xedb88320u & -(crc & 1u));
    }
    return ~crc;
}

static bool is_name(const char *name, size_t room)
{
    return name[0] && memchr(name, 0, room);
}

static bool card_is_sound(const struct tessera_card_limits *card)
{
    return is_name(card->uuid, sizeof card->uuid) && card->memory_limit_bytes && card->memory_limit_bytes <= MOST_BYTES && card->context_bytes <= MOST_BYTES &&
           card->compute_request_centi >= 1 && card->compute_request_centi <= card->compute_limit_centi && card->compute_limit_centi <= 100 && card->weight >= 1;
}

static bool is_sound(const struct tessera_limits_bank *bank)
{
    bool sound = checksum_of(bank) == bank->checksum && bank->card_count >= 1 && bank->card_count <= TESSERA_MOST_CARDS && bank->most_processes >= 1 &&
                 bank->most_processes <= TESSERA_MOST_PROCESSES && bank->mode <= TESSERA_MODE_ONE_DEVICE && is_name(bank->pod_uid, sizeof bank->pod_uid) &&
                 is_name(bank->container, sizeof bank->container);
    for (unsigned card = 0; sound && card < bank->card_count; card++)
        sound = card_is_sound(&bank->cards[card]);
    return sound;
}

/* Takes what is in force in `bank`; false if it is not sound within the tries, about 20 ms. */
static bool read_bank(struct tessera_limits_bank *bank, uint64_t *sequence)
{
    for (int try = 0; try < TRIES; try++) {
        *sequence = __atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE);
        memcpy(bank, (const void *)&page->bank[*sequence & 1], sizeof *bank);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&page->sequence, __ATOMIC_RELAXED) == *sequence && is_sound(bank))
            return true;
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return false;
}

/* Ledgers go by a card's place, so the cards of a container, and how it sees them, stay the same for its life. */
static bool same_cards(const struct tessera_limits_bank *one, const struct tessera_limits_bank *other)
{
    bool same = one->card_count == other->card_count && one->mode == other->mode;
    for (unsigned card = 0; same && card < one->card_count; card++)
        same = strcmp(one->cards[card].uuid, other->cards[card].uuid) == 0;
    return same;
}

static bool open_now(void)
{
    struct tessera_limits_bank bank;
    uint64_t sequence;
    int file = open_page("limits", O_RDONLY, sizeof *page);
    if (file < 0) {
        say(errno == EINVAL ? "no card for this program: its limits are not a page of limits" : "no card for this program: its limits are not there");
        return false;
    }
    const struct tessera_limits_page *mapped = mmap(NULL, sizeof *page, PROT_READ, MAP_SHARED, file, 0);
    syscall(SYS_close, file);
    if (mapped == MAP_FAILED)
        return false;
    page = mapped;
    const char *wrong = NULL;
    if (page->magic != TESSERA_LIMITS_MAGIC || page->version != TESSERA_PAGES_VERSION || page->size != sizeof *page || !read_bank(&bank, &sequence))
        wrong = "no card for this program: its limits are damaged or of another version";
    else if (!belongs_here(bank.pod_uid, bank.container))
        wrong = "no card for this program: these limits are another container's";
    if (wrong) {
        say(wrong);
        munmap((void *)mapped, sizeof *page);
        page = NULL;
        return false;
    }
    current = bank;
    __atomic_store_n(&seen, sequence + 1, __ATOMIC_RELEASE);
    return true;
}

bool limits_open(void)
{
    if (__atomic_load_n(&seen, __ATOMIC_ACQUIRE))
        return true;
    pthread_mutex_lock(&reading);
    bool opened = seen || open_now();
    pthread_mutex_unlock(&reading);
    return opened;
}

/* `seen` is one more than the sequence, so that 0 means that nothing was read. A sequence that cannot be read is not tried again. */
static void refresh(void)
{
    struct tessera_limits_bank bank;
    uint64_t sequence;
    if (__atomic_load_n(&page->sequence, __ATOMIC_ACQUIRE) + 1 == seen)
        return;
    if (read_bank(&bank, &sequence) && bank.generation > current.generation && same_cards(&bank, &current) &&
        strcmp(bank.pod_uid, current.pod_uid) == 0 && strcmp(bank.container, current.container) == 0)
        current = bank;
    __atomic_store_n(&seen, sequence + 1 ? sequence + 1 : 1, __ATOMIC_RELEASE);
}

static uint64_t number(uint64_t (*of)(unsigned), unsigned card)
{
    pthread_mutex_lock(&reading);
    refresh();
    uint64_t found = of(card);
    pthread_mutex_unlock(&reading);
    return found;
}

static uint64_t memory_of(unsigned card)
{
    return current.cards[card].memory_limit_bytes;
}

static uint64_t context_of(unsigned card)
{
    return current.cards[card].context_bytes;
}

static uint64_t processes_of(unsigned card)
{
    (void)card;
    return current.most_processes;
}

static uint64_t generation_of(unsigned card)
{
    (void)card;
    return current.generation;
}

uint64_t limits_memory(unsigned card)
{
    return number(memory_of, card);
}

uint64_t limits_context(unsigned card)
{
    return number(context_of, card);
}

unsigned limits_processes(void)
{
    return (unsigned)number(processes_of, 0);
}

uint64_t limits_generation(void)
{
    return number(generation_of, 0);
}

struct compute_limits limits_compute(unsigned card)
{
    pthread_mutex_lock(&reading);
    refresh();
    const struct tessera_card_limits *of = &current.cards[card];
    struct compute_limits found = {of->compute_request_centi, of->compute_limit_centi, of->weight, current.priority_class};
    pthread_mutex_unlock(&reading);
    return found;
}

/* It stays the same for the life of the process. */
const char *limits_uuid(unsigned card)
{
    return current.cards[card].uuid;
}

bool limits_one_device(void)
{
    return limits_open() && current.mode == TESSERA_MODE_ONE_DEVICE && current.card_count > 1;
}

unsigned limits_cards(void)
{
    return current.card_count;
}

int limits_card_named(const char *uuid)
{
    const char *mine = strchr(uuid, '-');
    for (unsigned card = 0; mine && card < current.card_count; card++) {
        const char *theirs = strchr(current.cards[card].uuid, '-');
        if (theirs && strcmp(mine, theirs) == 0) /* GPU-… or MIG-… */
            return (int)card;
    }
    return NO_CARD;
}

int limits_card_of(const unsigned char uuid[16])
{
    static const char digits[] = "0123456789abcdef";
    char text[44] = "GPU-";
    char *to = text + 4;
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *to++ = '-';
        *to++ = digits[uuid[i] >> 4];
        *to++ = digits[uuid[i] & 15];
    }
    *to = 0;
    return limits_card_named(text);
}
