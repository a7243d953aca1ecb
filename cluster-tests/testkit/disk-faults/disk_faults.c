/*
 * What a disk can do to a process: a library that is loaded before libc (LD_PRELOAD) and stands in its calls on files.
 *
 * It owns three things outside the directory that it watches: a journal of what the process was promised (which lengths
 * and names a sync has made last, which names changed since), a graveyard of hard links to files that lost a name which
 * no sync has taken away for good, and its part of the control file, through which a test delays or refuses calls, ends
 * the process at one of them, and reads counters. The test kit's module `disk_faults` writes the one, reads the others,
 * and cuts the power.
 *
 * What always holds: only files and directories below DISK_FAULTS_ROOT, on its device, are looked at; every other call
 * passes through unchanged. A promise is journalled after the system kept it and before the caller hears of it, and
 * never promises more than was there when the call began. No lock is held and nothing is allocated in a call, so forks,
 * threads and signal handlers meet nothing half-done. Nothing here is synced: only processes die, never the machine.
 *
 * When it fails: a library that cannot open its files says so on standard error and does nothing at all, which the test
 * sees in the counters. A record that cannot be written, or a place that cannot be looked up, is counted in
 * `journal_errors`, and the test kit then refuses to cut.
 *
 * Deliberately absent: sync_file_range (it promises nothing, so nothing is noted), posix_fallocate and fallocate that
 * only reserve (the length is read at each sync), sync, syncfs, O_SYNC and O_DSYNC (what they promise is not believed,
 * so a cut takes more than it must), msync (a file that is mapped for writing is noted as not exactly modelled), system
 * calls made past libc, mkstemp, symbolic links, and mounts below the root.
 */
#include "watch.h"

#include <pthread.h>

/* === what this process knows === */

/* File descriptors whose file is remembered; those above are looked up anew at each call. */
#define FDS_MAX 65536
/* Files whose synced length is remembered, to notice writes into it. */
#define FILES_MAX 65536
/* Places that are looked at before the table counts as full. */
#define PROBES_MAX 256
/* Where the journal's descriptor goes, so that a shell's own small numbers do not meet it. */
#define JOURNAL_FD_MIN 700
/* An open file that is none of ours; 0 is one that nobody has asked about. Any other number is an inode of ours. */
#define FOREIGN UINT64_MAX

struct control *control;
int journal = -1;
static char root[PATH_MAX];
static size_t root_length;
dev_t root_device;
char graveyard[PATH_MAX];

static _Atomic uint64_t fds[FDS_MAX];
static struct file files[FILES_MAX];

/* === the calls that come next === */

#define DEFINE(name) _Atomic(void *) next_##name;
CALLS(DEFINE)

void *find_next(_Atomic(void *) *known, const char *name)
{
    void *found = atomic_load_explicit(known, memory_order_acquire);
    if (found == NULL) {
        found = dlsym(RTLD_NEXT, name);
        if (found == NULL) {
            abort();
        }
        atomic_store_explicit(known, found, memory_order_release);
    }
    return found;
}

#define RESOLVE(name) find_next(&next_##name, #name);

/* === text, without allocating === */

/* Writes a number at `to` and answers where it ends. snprintf may allocate and must not run in a signal handler. */
char *put_number(char *to, uint64_t number, unsigned base)
{
    char digits[24];
    size_t count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    while (count > 0) {
        *to++ = digits[--count];
    }
    *to = '\0';
    return to;
}

char *put_text(char *to, const char *text)
{
    size_t length = strlen(text);
    memcpy(to, text, length + 1);
    return to + length;
}

/* === which files are ours === */

void forget(int fd)
{
    if (fd >= 0 && fd < FDS_MAX) {
        set(&fds[fd], 0);
    }
}

bool below_root(const char *path)
{
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == '\0');
}

/* Where an open file lies, as the kernel knows it: renames and symbolic links have been followed. */
bool path_of(int fd, char path[PATH_MAX])
{
    char open_file[64];
    put_number(put_text(open_file, "/proc/self/fd/"), (uint64_t)fd, 10);
    ssize_t length = readlink(open_file, path, PATH_MAX - 1);
    if (length <= 0) {
        return false;
    }
    path[length] = '\0';
    return true;
}

/*
 * Whether `fd` is a file or directory below the root, and how it is now. What was found is remembered. An inode that is
 * remembered is compared at each call, because descriptors can be closed and opened again where nobody here sees it.
 */
bool ours(int fd, struct stat *now)
{
    if (control == NULL || fd < 0) {
        return false;
    }
    uint64_t known = fd < FDS_MAX ? get(&fds[fd]) : 0;
    if (known == FOREIGN || fstat(fd, now) != 0) {
        return false;
    }
    bool possible = (S_ISREG(now->st_mode) || S_ISDIR(now->st_mode)) && now->st_dev == root_device;
    if (possible && known == now->st_ino) {
        return true;
    }
    char path[PATH_MAX];
    bool found = possible && path_of(fd, path) && below_root(path);
    if (fd < FDS_MAX) {
        set(&fds[fd], found ? now->st_ino : FOREIGN);
    }
    return found;
}

/* Whether the directory that holds, or would hold, this name is ours. */
bool find_place(int directory, const char *path, struct place *place)
{
    if (control == NULL) {
        return false;
    }
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') {
        length--;
    }
    size_t slash = length;
    while (slash > 0 && path[slash - 1] != '/') {
        slash--;
    }
    if (slash == length || length - slash > NAME_MAX || length >= PATH_MAX) {
        return false;
    }
    char parent[PATH_MAX];
    memcpy(parent, slash > 0 ? path : ".", slash > 0 ? slash : 1);
    parent[slash > 0 ? slash : 1] = '\0';
    int fd = NEXT(openat)(directory, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE) {
            add(&control->journal_errors, 1);
        }
        return false;
    }
    struct stat now;
    char found[PATH_MAX];
    bool is_ours = fstat(fd, &now) == 0 && now.st_dev == root_device && path_of(fd, found) && below_root(found);
    NEXT(close)(fd);
    if (is_ours) {
        place->directory = now.st_ino;
        place->length = length - slash;
        memcpy(place->name, path + slash, place->length);
        place->name[place->length] = '\0';
    }
    return is_ours;
}

/* What is remembered of a file; NULL when the table is full, which is counted. */
struct file *find_file(uint64_t inode, uint64_t synced_bytes)
{
    uint64_t start = (inode * UINT64_C(0x9e3779b97f4a7c15)) >> 48;
    for (uint64_t probe = 0; probe < PROBES_MAX; probe++) {
        struct file *file = &files[(start + probe) % FILES_MAX];
        uint64_t seen = get(&file->inode);
        if (seen == 0 && atomic_compare_exchange_strong(&file->inode, &seen, inode)) {
            set(&file->synced_bytes, synced_bytes);
            return file;
        }
        if (seen == inode) {
            return file;
        }
    }
    add(&control->untracked, 1);
    return NULL;
}

/* === coming up === */

static void complain(const char *what, const char *path)
{
    char text[PATH_MAX + 256];
    int length = snprintf(text, sizeof text, "disk_faults: does nothing in process %ld: %s %s: %s\n", (long)getpid(),
                          what, path, strerror(errno));
    if (length > 0 && NEXT(write)(STDERR_FILENO, text, (size_t)length) < 0) {
        /* Nobody listens; the counters that stay at zero tell the same. */
        return;
    }
}

static bool open_journal(const char *path)
{
    int fd = NEXT(openat)(AT_FDCWD, path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0) {
        complain("open the journal", path);
        return false;
    }
    journal = fcntl(fd, F_DUPFD_CLOEXEC, JOURNAL_FD_MIN);
    if (journal < 0) {
        journal = fd;
    } else {
        NEXT(close)(fd);
    }
    put_text(put_text(graveyard, path), ".graveyard");
    return true;
}

static struct control *open_control(const char *path)
{
    struct stat now;
    int fd = NEXT(openat)(AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &now) != 0 || (size_t)now.st_size < sizeof(struct control)) {
        complain("open the control file", path);
        return NULL;
    }
    void *mapped = (void *)syscall(SYS_mmap, NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    NEXT(close)(fd);
    struct control *found = mapped != MAP_FAILED ? mapped : NULL;
    if (found == NULL || found->magic != CONTROL_MAGIC || found->version != CONTROL_VERSION) {
        complain("read the control file", path);
        return NULL;
    }
    return found;
}

__attribute__((constructor)) static void begin(void)
{
    int before = errno;
    struct stat now;
    CALLS(RESOLVE)
    const char *root_path = getenv("DISK_FAULTS_ROOT");
    const char *journal_path = getenv("DISK_FAULTS_JOURNAL");
    const char *control_path = getenv("DISK_FAULTS_CONTROL");
    if (root_path == NULL || journal_path == NULL || control_path == NULL) {
        return;
    }
    errno = 0;
    if (realpath(root_path, root) == NULL || stat(root, &now) != 0 || !S_ISDIR(now.st_mode) || root[1] == '\0') {
        complain("find the root", root_path);
        return;
    }
    root_length = strlen(root);
    root_device = now.st_dev;
    if (strlen(journal_path) + sizeof ".graveyard" > PATH_MAX) {
        complain("use the journal", journal_path);
        return;
    }
    struct control *found = open_control(control_path);
    if (found != NULL && open_journal(journal_path) && pthread_atfork(NULL, NULL, after_fork) == 0) {
        control = found;
    }
    errno = before;
}
