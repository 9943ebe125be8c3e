// <pixel-viewer>: pictures of one size, two at a time, left and right of a divider, from the whole down to single pixels.
//
//   <pixel-viewer><a href="a.png" data-figures="31.2 dB">A</a><a href="b.png">B</a> ...</pixel-viewer>
//
// Its children are what the server wrote: Gradio patches them where a new result differs, and the view stays as it is.
// All that is drawn lies in the shadow root, where neither Gradio's patches nor its styles reach.

const MARKUP = `
  <div class="viewer">
    <div class="names">
      <select class="left" aria-label="Picture on the left"></select><span class="figures left"></span>
      <span class="figures right"></span><select class="right" aria-label="Picture on the right"></select>
    </div>
    <div class="stage" role="group" tabindex="0" aria-label="Pictures; arrow keys move them where they are larger">
      <div class="view"><img class="left"><img class="right"></div>
      <div class="divider" role="slider" tabindex="0" aria-label="Divider" aria-valuemin="0" aria-valuemax="100"></div>
    </div>
    <div class="bar" role="group" aria-label="View">
      <button value="fit">Fit</button><button value="1">1:1</button><button value="2">2\u00d7</button>
      <button value="out" aria-label="Zoom out">\u2212</button><output aria-live="polite"></output>
      <button value="in" aria-label="Zoom in">+</button>
      <button value="smooth" title="Smooth enlarged pictures; else pixels are squares">Smooth</button>
      <button value="difference" title="The difference of the two, amplified">Difference</button>
      <select class="gain" aria-label="Amplification of the difference">
        ${[1, 2, 4, 8, 16, 32].map(gain => `<option value="${gain}">\u00d7 ${gain}</option>`).join('')}
      </select>
      <button value="screen">Full screen</button>
    </div>
    <p class="hint"></p>
  </div>`
const LEVELS = [1 / 16, 1 / 8, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
const KEYS = { '+': 'in', '=': 'in', '-': 'out', 0: 'fit', 1: '1', 2: '2' }
const PAN_PIXELS = 40
const limited = (value, low, high) => Math.min(Math.max(value, low), high)

class PixelViewer extends HTMLElement {
  level = 1 // pixels of the screen, not of CSS, for one of the picture
  fitted = true
  centre = [0, 0] // what is in the middle of the stage, in pixels of the picture
  split = 0.5 // the divider's place, as a share of what is seen of the picture
  smooth = false
  difference = false
  shown = [0, 1] // children on the left and on the right
  size = null // of the pictures, once one is there
  pointers = new Map()

  constructor() {
    super()
    const root = this.attachShadow({ mode: 'open' })
    root.innerHTML = MARKUP
    root.prepend(document.getElementById('pixel-viewer-style').cloneNode(true))
    root.querySelector('style').media = 'all'
    const part = name => root.querySelector(name)
    this.viewer = part('.viewer')
    this.stage = part('.stage')
    this.divider = part('.divider')
    this.gain = part('.gain')
    this.gain.value = 8
    this.images = [part('img.left'), part('img.right')]
    this.choosers = [part('select.left'), part('select.right')]
    this.listen(root)
  }

  listen(root) {
    this.images.forEach(image => image.addEventListener('load', () => this.loaded(image)))
    this.choosers.forEach((chooser, side) => chooser.addEventListener('change', () => this.choose(side, chooser.selectedIndex)))
    this.gain.addEventListener('change', () => this.draw())
    root.addEventListener('click', ({ target }) => target.tagName === 'BUTTON' && this.act(target.value))
    root.addEventListener('keydown', event => this.key(event))
    this.stage.addEventListener('wheel', event => this.wheel(event), { passive: false })
    this.stage.addEventListener('pointerdown', event => this.grab(event))
    this.stage.addEventListener('pointermove', event => this.drag(event))
    for (const end of ['pointerup', 'pointercancel']) this.stage.addEventListener(end, event => this.pointers.delete(event.pointerId))
    this.resized = new ResizeObserver(() => this.draw())
    this.patched = new MutationObserver(() => this.read())
    this.screened = () => root.fullscreenElement ?? this.fill(false)
  }

  connectedCallback() {
    this.resized.observe(this.stage)
    this.patched.observe(this, { attributes: true, characterData: true, childList: true, subtree: true })
    document.addEventListener('fullscreenchange', this.screened)
    this.read()
  }

  disconnectedCallback() {
    this.resized.disconnect()
    this.patched.disconnect()
    document.removeEventListener('fullscreenchange', this.screened)
  }

  // --- which pictures

  read() {
    const names = [...this.children].map(each => each.textContent)
    if (names.length < 2) return
    if (Math.max(...this.shown) >= names.length) this.shown = [0, 1]
    for (const chooser of this.choosers) chooser.replaceChildren(...names.map(name => new Option(name)))
    this.choose(0, this.shown[0])
  }

  choose(side, index) {
    const other = this.shown[1 - side]
    this.shown[1 - side] = other === index ? this.shown[side] : other // the same twice would show nothing
    this.shown[side] = index
    this.shown.forEach((at, place) => {
      const { href, textContent: name, dataset } = this.children[at]
      this.choosers[place].selectedIndex = at
      this.choosers[place].title = name
      this.viewer.querySelector(['.figures.left', '.figures.right'][place]).textContent = dataset.figures ?? ''
      this.images[place].alt = [name, dataset.figures].filter(Boolean).join(', ')
      if (this.images[place].src !== href) this.images[place].src = href
    })
    this.draw()
  }

  loaded({ naturalWidth: width, naturalHeight: height }) {
    if (width !== this.size?.[0] || height !== this.size?.[1]) {
      this.size = [width, height]
      this.fitted = true
      this.stage.style.aspectRatio = `${width} / ${height}`
    }
    this.draw()
  }

  // --- what is asked for

  act(what) {
    if (what === 'smooth' || what === 'difference') this[what] = !this[what]
    else if (what === 'screen') this.fill(!this.viewer.classList.contains('full'))
    else if (what === 'in') this.zoom(LEVELS.find(level => level > this.level * 1.001) ?? this.level)
    else if (what === 'out') this.zoom(LEVELS.findLast(level => level < this.level / 1.001) ?? this.level)
    else if (what === 'fit') this.fitted = true
    else this.zoom(Number(what))
    this.draw()
  }

  // To `level`, by which what is at `point` of the window (else in the middle of the stage) stays where it is.
  zoom(level, point) {
    const offset = point ? this.offset(point) : [0, 0]
    const before = this.level
    this.level = limited(level, LEVELS[0], LEVELS.at(-1))
    this.centre = this.centre.map((at, axis) => at + offset[axis] / before - offset[axis] / this.level)
    this.fitted = false
    this.draw()
  }

  // From the middle of the stage to a point of the window, in pixels of the screen.
  offset({ clientX, clientY }) {
    const { left, top, width, height } = this.stage.getBoundingClientRect()
    return [clientX - left - width / 2, clientY - top - height / 2].map(side => side * devicePixelRatio)
  }

  pan(across, down) {
    this.centre = [this.centre[0] + across / this.level, this.centre[1] + down / this.level]
    this.fitted = false
    this.draw()
  }

  divide(split) {
    this.split = limited(split, 0, 1)
    this.draw()
  }

  key(event) {
    const { key, target, shiftKey } = event
    if (event.ctrlKey || event.altKey || event.metaKey || target.tagName === 'SELECT') return
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [0, 0]
    const page = { PageUp: 0.1, PageDown: -0.1 }[key] ?? 0
    const full = this.viewer.classList.contains('full')
    if (target === this.divider && (x || y || page)) this.divide(this.split + (x - y) * (shiftKey ? 0.1 : 0.01) + page)
    else if (target === this.divider && (key === 'Home' || key === 'End')) this.divide(key === 'Home' ? 0 : 1)
    else if (target === this.stage && (x || y) && this.larger) this.pan(...[x, y].map(way => way * PAN_PIXELS * (shiftKey ? 5 : 1)))
    else if (key in KEYS) this.act(KEYS[key])
    else if (key === 'Escape' && full) this.fill(false)
    else return
    event.preventDefault()
  }

  // The page scrolls on over the pictures; with Ctrl, by two fingers of a touchpad and in full screen the wheel zooms.
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey && !this.viewer.classList.contains('full')) return
    event.preventDefault()
    const pixels = event.deltaY * (event.deltaMode ? 33 : 1) // of lines
    this.zoom(this.level * 2 ** (-pixels / 200), event)
  }

  grab(event) {
    if (event.button) return
    this.pointers.set(event.pointerId, event)
    this.dividing = this.pointers.size === 1 && !this.difference && (event.target === this.divider || !this.larger)
    try {
      this.stage.setPointerCapture(event.pointerId)
    } catch { /* a pointer that has gone, or a made-up one */ }
  }

  drag(event) {
    const last = this.pointers.get(event.pointerId)
    if (!last) return
    this.pointers.set(event.pointerId, event)
    const other = [...this.pointers.values()].find(each => each.pointerId !== event.pointerId)
    if (other) this.pinch(last, event, other)
    else if (this.dividing) this.divide((this.offset(event)[0] - this.seen[0]) / (this.seen[1] - this.seen[0]))
    else if (this.larger) this.pan(...[last.clientX - event.clientX, last.clientY - event.clientY].map(way => way * devicePixelRatio))
  }

  pinch(last, now, other) {
    const apart = each => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY)
    const between = { clientX: (now.clientX + other.clientX) / 2, clientY: (now.clientY + other.clientY) / 2 }
    if (apart(last) > 0) this.zoom(this.level * apart(now) / apart(last), between)
  }

  // Fills the screen, or the page where a browser has no full screen but for films.
  fill(full) {
    this.viewer.classList.toggle('full', full)
    if (full) this.viewer.requestFullscreen?.().catch(() => {})
    else if (this.shadowRoot.fullscreenElement) document.exitFullscreen()
    this.draw()
  }

  // --- drawing; all lengths are pixels of the screen until they become styles

  draw() {
    const stage = [this.stage.clientWidth, this.stage.clientHeight].map(side => side * devicePixelRatio)
    if (!this.size || !stage[0] || !stage[1]) return
    if (this.fitted) {
      const most = Math.min(stage[0] / this.size[0], stage[1] / this.size[1])
      this.level = most < 1 ? most : Math.min(Math.floor(most), LEVELS.at(-1)) // whole: all pixels of one size
      this.centre = this.size.map(side => side / 2)
    }
    const size = this.size.map(side => side * this.level)
    // It covers the stage where it is larger, and lies in the middle where it is smaller.
    const middle = stage.map(side => side / 2)
    const start = size.map((side, axis) => side > stage[axis]
      ? limited(middle[axis] - this.centre[axis] * this.level, stage[axis] - side, 0)
      : middle[axis] - side / 2)
    this.centre = start.map((at, axis) => (middle[axis] - at) / this.level)
    this.larger = size.some((side, axis) => side > stage[axis] + 1)
    const [from, to] = [Math.max(0, start[0]), Math.min(stage[0], start[0] + size[0])]
    this.seen = [from - middle[0], to - middle[0]]
    this.place(start.map(Math.round), size, from + this.split * (to - from))
    this.tell()
  }

  place(start, size, divider) {
    const css = length => `${length / devicePixelRatio}px`
    for (const image of this.images) {
      Object.assign(image.style, { left: css(start[0]), top: css(start[1]), width: css(size[0]), height: css(size[1]) })
      image.style.imageRendering = this.level > 1 && !this.smooth ? 'pixelated' : 'auto'
    }
    this.images[0].style.clipPath = this.difference ? 'none' : `inset(0 ${css(start[0] + size[0] - divider)} 0 0)`
    this.divider.style.left = css(divider)
    this.viewer.style.setProperty('--gain', this.gain.value)
    this.viewer.classList.toggle('difference', this.difference)
    this.stage.classList.toggle('larger', this.larger)
  }

  // The level, the divider and the buttons in words.
  tell() {
    const [left, right] = this.shown.map(at => this.children[at]?.textContent)
    const percent = 100 * this.level
    this.viewer.querySelector('output').textContent = `${percent < 10 ? percent.toFixed(1) : Math.round(percent)} %`
    const part = Math.round(100 * this.split)
    this.divider.ariaValueNow = part
    this.divider.ariaValueText = `${part} % ${left}, ${100 - part} % ${right}`
    const full = this.viewer.classList.contains('full')
    const pressed = { fit: this.fitted, smooth: this.smooth, difference: this.difference, screen: full }
    for (const button of this.viewer.querySelectorAll('button')) {
      const zoomed = ['1', '2'].includes(button.value) ? !this.fitted && this.level === Number(button.value) : undefined
      button.ariaPressed = pressed[button.value] ?? zoomed ?? null
    }
    const wheel = matchMedia('(hover: none)').matches ? 'Two fingers zoom' : `${full ? 'The wheel' : 'Ctrl and the wheel'}, + and \u2212 zoom`
    this.viewer.querySelector('.hint').textContent = this.difference
      ? `The difference of ${left} and ${right} in each colour, \u00d7 ${this.gain.value}: black where they are the same.`
      : `${wheel}. Drag the divider, or the pictures where they are larger.`
  }
}

customElements.define('pixel-viewer', PixelViewer)
