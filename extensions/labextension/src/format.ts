/** Numbers, money and times in the viewer's language and zone. */
import type { TranslationBundle } from '@jupyterlab/translation';

const MICRO = 1_000_000n;

function decimal(micro: bigint): `${number}` {
  const sign = micro < 0n ? '-' : '';
  const value = micro < 0n ? -micro : micro;
  return `${sign}${value / MICRO}.${(value % MICRO).toString().padStart(6, '0')}` as `${number}`;
}

export class Formatter {
  /**
   * @param locale BCP 47 tag.
   * @param trans Texts of the extension.
   */
  constructor(
    readonly locale: string,
    readonly trans: TranslationBundle
  ) {}

  /** Money from integer micro-units; `digits` 4 while it ticks, else 2. */
  money(micro: bigint | number, currency: string, digits = 2): string {
    const amount = typeof micro === 'bigint' ? micro : BigInt(Math.trunc(micro));
    return this._currency(currency, digits).format(decimal(amount));
  }

  /** Price per hour from nano-units. */
  rate(nanoPerHour: number, currency: string): string {
    const micro = BigInt(Math.trunc(nanoPerHour)) / 1000n;
    const digits = micro !== 0n && micro < 100_000n ? 4 : 2;
    return this.trans.__('%1/h', this.money(micro, currency, digits));
  }

  number(value: number, maximumFractionDigits = 2): string {
    return new Intl.NumberFormat(this.locale, { maximumFractionDigits }).format(value);
  }

  percent(part: number, whole: number): string {
    return new Intl.NumberFormat(this.locale, { style: 'percent' }).format(whole > 0 ? part / whole : 0);
  }

  bytes(count: number): string {
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let value = count;
    let unit = 0;
    while (value >= 1024 && unit < units.length - 1) {
      value /= 1024;
      unit++;
    }
    return `${this.number(value, value < 10 && unit > 0 ? 1 : 0)} ${units[unit] ?? ''}`;
  }

  mebibytes(mib: number): string {
    return this.bytes(mib * 1024 * 1024);
  }

  /** `1.2/2 GiB`: two amounts in the unit of the second. */
  ofMebibytes(used: number, limit: number): string {
    const gib = limit >= 1024;
    const show = (mib: number): string => this.number(gib ? mib / 1024 : mib, gib ? 1 : 0);
    return `${show(used)}/${show(limit)} ${gib ? 'GiB' : 'MiB'}`;
  }

  cores(millicores: number): string {
    const cores = millicores / 1000;
    return this.trans._n('%2 core', '%2 cores', cores === 1 ? 1 : 2, this.number(cores));
  }

  /** Cards from hundredths, with the vulgar fractions people read fastest. */
  cards(centiCards: number): string {
    const fractions: Record<number, string> = { 25: '¼', 50: '½', 75: '¾' };
    return fractions[centiCards] ?? this.number(centiCards / 100);
  }

  /** Name of a dimension: `cpu`, `memory`, `cards/<class>`, `card_memory/<class>`. */
  dimension(name: string): string {
    const [kind, card] = name.split('/');
    switch (kind) {
      case 'cpu':
        return this.trans.__('CPU');
      case 'memory':
        return this.trans.__('Memory');
      case 'cards':
        return card ?? name;
      case 'card_memory':
        return this.trans.__('%1 memory', card ?? '');
      default:
        return name;
    }
  }

  /** Amount of a dimension with its unit. */
  amount(dimension: string, value: number): string {
    if (dimension === 'cpu') {
      return this.cores(value);
    }
    if (dimension === 'memory' || dimension.startsWith('card_memory/')) {
      return this.mebibytes(value);
    }
    return dimension.startsWith('cards/') ? this.cards(value) : this.number(value);
  }

  /** A whole resource vector in one short line. */
  resources(vector: Record<string, number>): string {
    const parts: string[] = [];
    for (const [name, value] of Object.entries(vector)) {
      if (name.startsWith('cards/')) {
        parts.unshift(`${this.cards(value)} × ${this.dimension(name)}`);
      } else if (!name.startsWith('card_memory/') && value > 0) {
        parts.push(this.amount(name, value));
      }
    }
    return parts.join(' · ');
  }

  /** A running clock: `0:42`, `12:05`, `1:02:33`. */
  clock(seconds: number): string {
    const s = Math.max(0, Math.floor(seconds));
    const two = (n: number): string => n.toString().padStart(2, '0');
    const hours = Math.floor(s / 3600);
    const minutes = Math.floor(s / 60) % 60;
    return hours > 0 ? `${hours}:${two(minutes)}:${two(s % 60)}` : `${minutes}:${two(s % 60)}`;
  }

  /** A length of time, in the unit in which it is read fastest. */
  lasting(seconds: number): string {
    if (seconds < 10) {
      return this.trans.__('%1 s', this.number(Math.max(0, seconds), 1));
    }
    return seconds < 60 ? this.trans.__('%1 s', this.number(seconds, 0)) : this.clock(seconds);
  }

  /** A rough length of time for sentences. */
  about(seconds: number): string {
    if (seconds < 60) {
      return this.trans.__('less than a minute');
    }
    if (seconds < 3600) {
      const minutes = Math.round(seconds / 60);
      return this.trans._n('about %1 minute', 'about %1 minutes', minutes);
    }
    const hours = Math.round(seconds / 3600);
    return this.trans._n('about %1 hour', 'about %1 hours', hours);
  }

  /** Time in the viewer's zone: the hour today, else the day too. */
  time(iso: string, seconds = false): string {
    const date = new Date(iso);
    const today = new Date().toDateString() === date.toDateString();
    const clock: Intl.DateTimeFormatOptions = { hour: '2-digit', minute: '2-digit', hour12: false };
    if (seconds) {
      clock.second = '2-digit';
    }
    return new Intl.DateTimeFormat(
      this.locale,
      today ? clock : { ...clock, month: 'short', day: 'numeric' }
    ).format(date);
  }

  /** The same moment in UTC, for a tooltip. */
  utc(iso: string): string {
    return `${new Date(iso).toISOString().replace('T', ' ').slice(0, 19)} UTC`;
  }

  private _currency(currency: string, digits: number): Intl.NumberFormat {
    const key = `${currency} ${digits}`;
    let format = this._formats.get(key);
    if (!format) {
      format = new Intl.NumberFormat(this.locale, {
        style: 'currency',
        currency,
        currencyDisplay: 'narrowSymbol',
        minimumFractionDigits: digits,
        maximumFractionDigits: digits
      });
      this._formats.set(key, format);
    }
    return format;
  }

  private _formats = new Map<string, Intl.NumberFormat>();
}
