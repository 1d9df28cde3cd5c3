/* The fastest receiver that can be had: an epoll loop that reads a POST by its Content-Length and answers 200.
 *
 *   cc -O2 -o sink sink.c && ./sink [DELAY_MS]     prints its port, then serves until it is killed
 *
 * DELAY_MS is the latency of each answer: it waits in a ring, first in first out, and holds nothing else up.
 * SIGUSR1 prints how many calls were answered.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST_CONNECTIONS 65536
#define BUFFER 16384

static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nContent-Type: application/json\r\n\r\n{\"ok\":true}";

struct connection {
    int length;
    char data[BUFFER];
};

struct waiting {
    int descriptor;
    double due;
};

static struct connection *connections[MOST_CONNECTIONS];
static struct waiting ring[MOST_CONNECTIONS];
static unsigned first, last;
static volatile unsigned long answered;

static void tell(int number) {
    (void)number;
    char text[32];
    int length = snprintf(text, sizeof text, "%lu\n", answered);
    if (write(1, text, length) < 0) _exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void answer(int descriptor) {
    if (write(descriptor, ANSWER, sizeof ANSWER - 1) < 0) return;
    answered++;
}

static void forget(int descriptor) {
    free(connections[descriptor]);
    connections[descriptor] = NULL;
    close(descriptor);
}

/* How many bytes the first whole request in the buffer takes; 0 when it is not whole yet. */
static int whole(struct connection *it) {
    char *end = memmem(it->data, it->length, "\r\n\r\n", 4);
    if (!end) return 0;
    int header = end + 4 - it->data, body = 0;
    it->data[it->length] = 0;
    char *field = strcasestr(it->data, "content-length:");
    if (field && field < end) body = atoi(field + 15);
    return it->length >= header + body ? header + body : 0;
}

int main(int count, char **words) {
    double delay = count > 1 ? atof(words[1]) : 0;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGUSR1, tell);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (void *)&address, size) || listen(listener, 4096)) return perror("sink"), 1;
    getsockname(listener, (void *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[512];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int pause = first == last ? -1 : (int)(ring[first % MOST_CONNECTIONS].due - now()) + 1;
        int ready = epoll_wait(poll, events, 512, first == last ? -1 : pause < 0 ? 0 : pause);
        for (int i = 0; i < ready; i++) {
            int descriptor = events[i].data.fd;
            if (descriptor == listener) {
                int fresh;
                while ((fresh = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    if (fresh >= MOST_CONNECTIONS) { close(fresh); continue; }
                    setsockopt(fresh, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                    connections[fresh] = calloc(1, sizeof(struct connection));
                    event.events = EPOLLIN;
                    event.data.fd = fresh;
                    epoll_ctl(poll, EPOLL_CTL_ADD, fresh, &event);
                }
                continue;
            }
            struct connection *it = connections[descriptor];
            ssize_t got = read(descriptor, it->data + it->length, BUFFER - 1 - it->length);
            if (got <= 0) {
                if (got == 0 || (errno != EAGAIN && errno != EINTR)) forget(descriptor);
                continue;
            }
            it->length += got;
            for (int taken; (taken = whole(it)); ) {
                memmove(it->data, it->data + taken, it->length -= taken);
                if (delay > 0) {
                    ring[last++ % MOST_CONNECTIONS] = (struct waiting){descriptor, now() + delay};
                } else {
                    answer(descriptor);
                }
            }
        }
        while (first != last && ring[first % MOST_CONNECTIONS].due <= now()) {
            int descriptor = ring[first++ % MOST_CONNECTIONS].descriptor;
            if (connections[descriptor]) answer(descriptor);
        }
    }
}
